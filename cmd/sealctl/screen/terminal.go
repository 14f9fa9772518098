package screen

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Terminal is a terminal that a picture is drawn on, in its alternate screen, so that what stood on it comes back.
type Terminal struct {
	file *os.File
	bold bool
}

// Control sequences of ECMA-48, and of xterm for the alternate screen.
const (
	enter   = "\x1b[?1049h\x1b[?25l" // the alternate screen, no cursor
	leave   = "\x1b[0m\x1b[?25h\x1b[?1049l"
	home    = "\x1b[H"
	eraseTo = "\x1b[K" // the line from here on
	erase   = "\x1b[J" // what is below
	strong  = "\x1b[1m"
	normal  = "\x1b[0m"
)

// Open takes a terminal into use; nil if w is none, or one that cannot move its cursor (TERM=dumb). With NO_COLOR
// set nothing is emphasised (no-color.org). Close gives it back.
func Open(w io.Writer, getenv func(string) string) *Terminal {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	if _, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err != nil || getenv("TERM") == "dumb" || getenv("TERM") == "" {
		return nil
	}
	t := &Terminal{file: f, bold: getenv("NO_COLOR") == ""}
	if _, err := io.WriteString(f, enter); err != nil {
		return nil
	}
	return t
}

// Size is the terminal's size by now, 80x24 if it does not say.
func (t *Terminal) Size() Size {
	ws, err := unix.IoctlGetWinsize(int(t.file.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return Size{80, 24}
	}
	return Size{int(ws.Col), int(ws.Row)}
}

// Draw shows lines in place of those before, in one write.
func (t *Terminal) Draw(lines []Line) error {
	_, err := io.WriteString(t.file, frame(lines, t.Size().Height, t.bold))
	return err
}

// frame is what Draw writes. Lines are erased before they are written: after the last column an erasure would take that.
func frame(lines []Line, height int, bold bool) string {
	var b strings.Builder
	b.WriteString(home)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(eraseTo)
		if l.Strong && bold {
			b.WriteString(strong + l.Text + normal)
		} else {
			b.WriteString(l.Text)
		}
	}
	if len(lines) < height {
		b.WriteString("\r\n" + erase)
	}
	return b.String()
}

// Close puts the terminal back as it was.
func (t *Terminal) Close() { _, _ = io.WriteString(t.file, leave) }
