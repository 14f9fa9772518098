package screen

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain returns s as it may be shown on a terminal: whatever does not print, escape sequences and marks that turn the writing
// direction among it, is shown as its code.
func Plain(s string) string {
	clean := true
	for _, r := range s {
		clean = clean && printable(r)
	}
	if clean && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !printable(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func printable(r rune) bool { return r == ' ' || r != utf8.RuneError && unicode.IsPrint(r) }

// Width is the number of columns that s, which is plain, takes.
func Width(s string) (n int) {
	for _, r := range s {
		n += columns(r)
	}
	return n
}

// columns are those of one rune: none for what combines with the one before, two for East Asian and pictures.
func columns(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// Cut shortens s, which is plain, to so many columns, with a ~ at its end if something is left out. 0 columns: it stays whole.
func Cut(s string, width int) string {
	if width <= 0 || Width(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += columns(r); n > width-1 {
			return s[:i] + "~"
		}
	}
	return s
}

// pad fills s up to so many columns.
func pad(s string, width int, right bool) string {
	space := strings.Repeat(" ", max(width-Width(s), 0))
	if right {
		return space + s
	}
	return s + space
}

// short writes a time in seconds in few characters; "-" for one that is not known.
func short(s int64) string {
	switch {
	case s < 0:
		return "-"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd", s/86400)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
