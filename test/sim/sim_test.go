package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Small fleets, held to the same promises as large ones; and shadows behave like the members that they follow.
func TestSmallFleets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scale.svg")
	var out bytes.Buffer
	if err := run(&out, quickSizes(), false, file, ""); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log("\n" + out.String())
}

func TestShadowsBehaveLikeMembers(t *testing.T) {
	pool, err := newPool()
	if err != nil {
		t.Fatal(err)
	}
	r, err := simulate(pool, size{2 * sample, 4 * sample})
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.rows {
		w := &r.rows[i]
		if w.scenario == scenarioBoot || w.scenario == scenarioRevoke {
			if math.Abs(w.hellos-w.shadowHellos) > 0.25 {
				t.Errorf("%s: a member sends %.2f Hellos, a shadow %.2f", w.scenario, w.hellos, w.shadowHellos)
			}
		}
	}
}

// What is counted is the same in every run; only processor time is measured.
func TestRepeatable(t *testing.T) {
	pool, err := newPool()
	if err != nil {
		t.Fatal(err)
	}
	var all [2][]byte
	for i := range all {
		r, err := simulate(pool, size{3, 30})
		if err != nil {
			t.Fatal(err)
		}
		for j := range r.rows {
			r.rows[j].keeperCPU = time.Second
		}
		all[i] = plot([]*result{r})
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("two runs give two pictures")
	}
	d := xml.NewDecoder(bytes.NewReader(all[0]))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the picture is not XML: %v", err)
		}
	}
}

// The verdict can say no.
func TestJudge(t *testing.T) {
	bad := &result{size: size{1, 10}, rows: []row{
		{scenario: scenarioRotate, traffic: traffic{sent: map[string]int{"epoch": 2, "grant": 1}}},
		{scenario: scenarioRevoke, traffic: traffic{sent: map[string]int{"grant": 40}, keeperCPU: 61 * time.Second}},
		{scenario: scenarioTakeover, took: time.Minute},
	}}
	err := judge([]*result{bad})
	if err == nil {
		t.Fatal("all is well")
	}
	for _, want := range []string{"2 announcements", "1 questions and answers", "40 Grants", "1m1s", "without a leader"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

func TestParseOps(t *testing.T) {
	got := parseOps("sign a message\t12000\nnoise\nopen\tx\n")
	if len(got) != 1 || got["sign a message"] != 12*time.Microsecond {
		t.Errorf("got %v", got)
	}
}
