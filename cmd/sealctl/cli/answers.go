package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"sealgate/pkg/member"
)

// The files that `sealctl setup --from` reads. ".txt" may follow, which editors add.
var answerNames = []string{"ticket", "broker", "ca.pem", "place.conf"}

// Bounds of what is read of them.
const (
	maxAnswerFile  = 64 << 10
	maxAnswerFiles = 64
)

// errorFile is where an appliance says what is wrong with the others.
const errorFile = "error.txt"

// answers are the texts of the files, by their names; what is not there is missing.
type answers map[string]string

// readAnswers reads a directory that somebody filled on a computer of another kind: letters of any case, line ends of any kind.
func readAnswers(dir string) (answers, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxAnswerFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	a := make(answers)
	var wrong []error
	for _, e := range entries {
		name := strings.TrimSuffix(strings.ToLower(e.Name()), ".txt")
		switch _, twice := a[name]; {
		case strings.HasPrefix(name, "."), strings.EqualFold(e.Name(), errorFile):
			continue
		case !slices.Contains(answerNames, name):
			wrong = append(wrong, fmt.Errorf("%s: nothing reads a file of this name; there are %s", e.Name(), strings.Join(answerNames, ", ")))
			continue
		case twice:
			wrong = append(wrong, fmt.Errorf("%s: it is there twice, with and without .txt; remove one", name))
			continue
		}
		if a[name], err = readAnswer(filepath.Join(dir, e.Name())); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(entries) == maxAnswerFiles {
		wrong = append(wrong, fmt.Errorf("there are %d files or more; put in only %s", maxAnswerFiles, strings.Join(answerNames, ", ")))
	}
	return a, errors.Join(wrong...)
}

// readAnswer reads a text with lines that end in "\n".
func readAnswer(file string) (string, error) {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, errors.New("it is no file"))
	}
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxAnswerFile+1))
	if err != nil {
		return "", err
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	switch {
	case len(b) > maxAnswerFile:
		return "", fmt.Errorf("it is larger than %d bytes", maxAnswerFile)
	case !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0:
		return "", errors.New("it is no text in UTF-8; save it as UTF-8, or copy the file as it is")
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n"), nil
}

// fromFiles takes the answers from files instead of asking, and the text of place.conf, if it is there. All that is wrong with them is reported at once, as a
// usage error: trying again changes nothing.
func (w *wizard) fromFiles(dir string) (place string, err error) {
	a, err := readAnswers(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", usagef("%v", err)
	}
	wrong := []error{err}
	refuse := func(name string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
		}
	}
	if id, _, _, err := member.LoadIdentity(w.identity()); err == nil {
		w.member = id.Member()
	} else {
		take := func(text string) error { _, err := w.takeTicket(text); return err }
		refuse("ticket", a.need("ticket", take, "the line that `sealctl fleet ticket` printed"))
	}
	refuse("broker", a.need("broker", w.takeBroker, "a line such as mqtts://broker.example:8883"))
	if pem, ok := a["ca.pem"]; ok || strings.HasPrefix(w.broker, "mqtts:") {
		refuse("ca.pem", a.need("ca.pem", func(string) error { return w.takeCA([]byte(pem)) }, "the CA of the broker's certificate"))
	}
	if text, ok := a["place.conf"]; ok {
		place, err = parsePlace(text)
		refuse("place.conf", err)
	}
	if err := errors.Join(wrong...); err != nil {
		return "", usagef("%v", err)
	}
	w.say("The files fit: this is to be %s %q of fleet %q.", w.member.Role, w.member.Name, w.member.Fleet)
	return place, nil
}

// need gives a file's text, without the white space around it, to take.
func (a answers) need(name string, take func(string) error, what string) error {
	text, ok := a[name]
	if text = strings.TrimSpace(text); !ok || text == "" {
		return fmt.Errorf("it is missing or empty; it holds %s", what)
	}
	return take(text)
}
