package crypto

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const python = "/usr/bin/python3" // the distribution's, which sees its packages

func needPython(t *testing.T) {
	t.Helper()
	out, err := exec.Command(python, "-B", "-c", "import cbor2, cryptography").CombinedOutput()
	if err == nil {
		return
	}
	if os.Getenv("SEALGATE_REQUIRE") == "1" {
		t.Fatalf("%s with python3-cbor2 and python3-cryptography is required: %v\n%s", python, err, out)
	}
	t.Skipf("install python3-cbor2 and python3-cryptography to run the second implementation: %v", err)
}

// The second implementation, in Python, seals and opens the same vectors.
func TestVectorsInPython(t *testing.T) {
	needPython(t)
	out, err := exec.Command(python, "-B", allVectors+"/check.py").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "vectors, 0 failed") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// The second implementation is able to fail: a vector with one digit changed does not pass.
func TestPythonNoticesAWrongVector(t *testing.T) {
	needPython(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(allVectors)); err != nil {
		t.Fatal(err)
	}
	digit := regexp.MustCompile(`("(?:envelope|output|ciphertext|payload|sealed|key_id|key)": "[0-9a-f]*)([0-9a-f])"|("missing": )(\d+)`)
	for _, name := range []string{"envelope/ok-seq-0", "envelope/parse-piv-zero", "keys/commitment", "topic/key-2", "epoch/ok", "sign1/ok-es256", "window/gap", "mlkem/reject-last", "hpke/ok-draft",
		"control/lease-ok", "grant/ok-es256-intermediate", "announcement/ok-takeover", "enrol/request-ok"} {
		file := dir + "/" + name + ".json"
		b := must(os.ReadFile(file))(t)
		var changed []byte
		if name == "envelope/parse-piv-zero" {
			changed = bytes.Replace(b, []byte(`"parse"`), []byte(`"ok"`), 1)
		} else {
			at := digit.FindAllSubmatchIndex(b, -1)
			last := at[len(at)-1]
			pos := max(last[4], last[8])
			changed = bytes.Clone(b)
			changed[pos] ^= 1
		}
		if err := os.WriteFile(file, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(name, "/")
		out, err := exec.Command(python, "-B", dir+"/check.py", kind).CombinedOutput()
		if err == nil || !strings.Contains(string(out), name) || !strings.Contains(string(out), "vectors, 1 failed") {
			t.Errorf("%s with a digit changed: %v\n%s", name, err, out)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
