package cli

import (
	"bytes"
	"testing"

	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
)

func TestSetKey(t *testing.T) {
	for _, c := range []struct{ name, in, value, want string }{
		{"plain", "version = 1\n", "2", "version = 2\n"},
		{"comment kept", "# a\nversion=1 # b\nx = 1\n", "22", "# a\nversion=22 # b\nx = 1\n"},
		{"indented, CRLF", "  version = 1\r\n", "2", "  version = 2\r\n"},
		{"no newline at the end", "version = 1", "2", "version = 2"},
		{"missing", "x = 1\n", "2", "version = 2\nx = 1\n"},
		{"empty file", "", "2", "version = 2\n"},
		{"only in a table", "[a]\nversion = 1\n", "2", "version = 2\n[a]\nversion = 1\n"},
		{"commented out", "# version = 1\n", "2", "version = 2\n# version = 1\n"},
		{"longer key", "version_x = 1\nversion = 3\n", "4", "version_x = 1\nversion = 4\n"},
		{"inside an array of another key", "x = [\n  \"version = 9\",\n]\nversion = 3\n", "4", "x = [\n  \"version = 9\",\n]\nversion = 4\n"},
		{"text with an equals sign", "x = \"a = b # c\" # version = 7\nversion = 3\n", "4", "x = \"a = b # c\" # version = 7\nversion = 4\n"},
		{"array", "version = [\"a]\", # ]\n 'b'] # c\n[t]\n", "[]", "version = [] # c\n[t]\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(setKey([]byte(c.in), "version", c.value)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestFirstPolicyParses(t *testing.T) {
	text := setKey(firstPolicy("plant"), "revoked_names", stringArray([]string{"gw1", "a-very-long-name-for-a-member", "another-very-long-name-for-a-member", "x"}))
	d, err := policy.ParseTOML(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Groups) != 1 || d.Groups[0].Name != "default" || len(d.RevokedNames) != 4 || d.Groups[0].Topics[0] != "#" {
		t.Errorf("got %+v", d)
	}
}

func TestWriteJSON(t *testing.T) {
	for _, c := range []struct {
		m    subscriber.Message
		want string
	}{
		{subscriber.Message{Topic: "t", Payload: []byte("<é>"), Status: subscriber.StatusOK}, `{"topic":"t","payload":"<é>","qos":0,"retain":false,"status":"ok"}`},
		{subscriber.Message{Topic: "t", Payload: []byte{0xff, 0}, QoS: 1, Retain: true, Status: subscriber.StatusOK}, `{"topic":"t","payload_base64":"/wA=","qos":1,"retain":true,"status":"ok"}`},
		{subscriber.Message{Topic: "t", Payload: []byte{}, Status: subscriber.StatusOK}, `{"topic":"t","payload":"","qos":0,"retain":false,"status":"ok"}`},
		{subscriber.Message{Topic: "t", Payload: []byte("never"), Status: subscriber.StatusForged}, `{"topic":"t","qos":0,"retain":false,"status":"forged"}`},
		{subscriber.Message{Topic: "t", Sealed: true, Status: subscriber.StatusOK, Gap: 2, Seq: 9}, `{"topic":"t","payload":"","qos":0,"retain":false,"status":"ok","stream":"0000000000000000","key":"00000000","seq":9,"gap":2}`},
		{subscriber.Message{Topic: "t", Sealed: true, Status: subscriber.StatusGap, From: 0, To: 8}, `{"topic":"t","status":"gap","stream":"0000000000000000","key":"00000000","from":0,"to":8}`},
	} {
		var out bytes.Buffer
		if err := writeJSON(&out, &c.m); err != nil || out.String() != c.want+"\n" {
			t.Errorf("got %swant %s (%v)", out.String(), c.want, err)
		}
	}
}

func TestNearest(t *testing.T) {
	for in, want := range map[string]string{"sbu": "sub", "stauts": "status", "rotat": "rotate", "frobnicate": "", "": ""} {
		if got := nearest(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
