package cli

import (
	"bytes"
	"fmt"
	"strings"
)

// firstPolicy is the policy.toml of a new fleet.
func firstPolicy(fleet string) []byte {
	return fmt.Appendf(nil, `# Fleet policy of %q: which topics are sealed, who may write and read them.
# Edit it, then:  sealctl policy sign DIR  and  sealctl policy publish DIR -b URL -i IDENTITYDIR

version = 0                # of the last signed policy; signing counts it up
unmatched = "deny"         # what a topic that no group covers gets: seal:<group> | pass | deny
revoked_names = []         # filled by `+"`sealctl fleet revoke`"+`
revoked_certificates = []

# A group is topics that share keys and readers. The topics of two groups may not overlap.
[[group]]
name = "default"
topics = ["#"]             # MQTT topic filters
publish = ["*"]            # members that may seal: name patterns, * stands for any characters
read = ["*"]               # members that may open
# keepers = ["gw1"]        # members that make the keys, the first one leads; unset: the first three gateways or keepers enrolled
rotate = "1h"              # a new key this often
history = "168h"           # how long an old key still opens: at least as long as retained messages and offline sessions live
freshness = "24h"          # how long a gateway seals without hearing from a keeper
clear_retained = "pass"    # empty retained messages, which clear a topic: pass | deny
activate_after = "10s"     # between announcing a key and sealing under it
checkpoint = "10s"         # how often a gateway says what it has sent
# hide_topics = true       # the broker sees tokens in place of topic names
# pad = 64                 # hide lengths: pad messages to multiples of so many bytes, 16 to 65536
`, fleet)
}

// setKey sets a top-level key of a TOML text to value, leaving every other byte, comments included, as
// it was. A key that is missing is added in front.
func setKey(text []byte, key, value string) []byte {
	start, found := findKey(text, key)
	if !found {
		return append(fmt.Appendf(nil, "%s = %s\n", key, value), text...)
	}
	end := start + valueEnd(text[start:])
	return bytes.Join([][]byte{text[:start], []byte(value), text[end:]}, nil)
}

// findKey returns where the value of a top-level key begins.
func findKey(text []byte, key string) (start int, found bool) {
	for at := 0; at < len(text); {
		line := text[at:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		trimmed := bytes.TrimLeft(line, " \t")
		if bytes.HasPrefix(trimmed, []byte("[")) {
			return 0, false // tables begin
		}
		name, rest, assigns := bytes.Cut(line, []byte("="))
		if !assigns || bytes.HasPrefix(trimmed, []byte("#")) {
			at += len(line)
			continue
		}
		value := at + len(line) - len(bytes.TrimLeft(rest, " \t"))
		if string(bytes.TrimSpace(name)) == key {
			return value, true
		}
		at = value + valueEnd(text[value:]) // an array's lines are not assignments
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			at += i + 1
		} else {
			at = len(text)
		}
	}
	return 0, false
}

// valueEnd is the length of the value that b begins with: an array of strings, which may span lines and hold comments, or a
// plain value up to a blank, a comment or the line's end.
func valueEnd(b []byte) int {
	if len(b) == 0 || b[0] != '[' {
		if i := bytes.IndexAny(b, " \t\r\n#"); i >= 0 {
			return i
		}
		return len(b)
	}
	var quote byte
	comment := false
	for i, c := range b {
		switch {
		case comment:
			comment = c != '\n'
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			comment = true
		case c == ']':
			return i + 1
		}
	}
	return len(b)
}

// stringArray writes strings without quotes or backslashes in them as a TOML array, a long one over several lines.
func stringArray(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = `"` + s + `"`
	}
	if one := "[" + strings.Join(quoted, ", ") + "]"; len(one) <= 80 {
		return one
	}
	return "[\n  " + strings.Join(quoted, ",\n  ") + ",\n]"
}
