package cddl

import (
	"encoding/hex"
	"testing"
)

func TestCheck(t *testing.T) {
	s := Spec{}
	if err := s.add(`
pair = [1, name: tstr .size (1..3), * item] ; a comment = not a rule
item = [bstr .size 2, flag: bool, kind]
kind = "a" / "b" / 7
list = [2*3 uint]
`); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		rule, hex string
		ok        bool
	}{
		{"pair", "820161" + "78", true},
		{"pair", "830161" + "78" + "83" + "420102" + "f5" + "6161", true},
		{"pair", "830161" + "78" + "83" + "420102" + "f5" + "07", true},
		{"pair", "830161" + "78" + "83" + "420102" + "f5" + "6163", false}, // no such kind
		{"pair", "830161" + "78" + "83" + "4101" + "f5" + "6161", false},   // short bstr
		{"pair", "820160", false},                                          // empty name
		{"pair", "820164" + "78787878", false},                             // long name
		{"pair", "820261" + "78", false},                                   // 2 for 1
		{"pair", "8101", false},
		{"pair", "820161" + "7800", false}, // a byte more
		{"list", "820102", true},
		{"list", "83010203", true},
		{"list", "8101", false},
		{"list", "8401020304", false},
		{"none", "01", false},
	}
	for _, tt := range tests {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(tt.rule, b); (err == nil) != tt.ok {
			t.Errorf("%s %s: %v", tt.rule, tt.hex, err)
		}
	}
}
