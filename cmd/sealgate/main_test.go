package main

import (
	"bytes"
	"strings"
	"testing"

	"sealgate/cmd/internal/cmdenv"
)

// The program is chosen by the name it is called by, and only then by the first argument.
func TestChoosesProgram(t *testing.T) {
	tests := []struct {
		name string
		args []string
		code int
		says string // what it prints first
	}{
		{"gatewayd", []string{"-help"}, cmdenv.OK, "gatewayd: the data plane"},
		{"controld", []string{"-help"}, cmdenv.OK, "controld: the control plane"},
		{"sealctl", []string{"-help"}, cmdenv.OK, "sealctl makes fleets"},
		{"sealgate", []string{"gatewayd", "-help"}, cmdenv.OK, "gatewayd: the data plane"},
		{"sealgate", []string{"controld", "-help"}, cmdenv.OK, "controld: the control plane"},
		{"sealgate", []string{"sealctl", "-help"}, cmdenv.OK, "sealctl makes fleets"},
		{"sealgate-mipsle", []string{"sealctl", "-help"}, cmdenv.OK, "sealctl makes fleets"},
		{"gatewayd", []string{"controld"}, cmdenv.Usage, "gatewayd: unexpected argument \"controld\""},
		{"sealgate", nil, cmdenv.Usage, "usage: sealgate "},
		{"sealgate", []string{"-help"}, cmdenv.OK, "usage: sealgate "},
		{"sealgate", []string{"gateway"}, cmdenv.Usage, "sealgate: \"gateway\" is none of its programs"},
	}
	for _, test := range tests {
		t.Run(test.name+" "+strings.Join(test.args, " "), func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(test.name, cmdenv.Env{Ctx: t.Context(), Args: test.args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }})
			if code != test.code || !strings.HasPrefix(out.String()+errs.String(), test.says) {
				t.Errorf("exit %d, says %q %q; want %d, %q", code, out.String(), errs.String(), test.code, test.says)
			}
		})
	}
}
