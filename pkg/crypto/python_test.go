package crypto

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The second implementation, in Python, seals and opens the same vectors.
func TestVectorsInPython(t *testing.T) {
	const python = "/usr/bin/python3" // the distribution's, which sees its packages
	if out, err := exec.Command(python, "-B", "-c", "import cbor2, cryptography").CombinedOutput(); err != nil {
		if os.Getenv("SEALGATE_REQUIRE") == "1" {
			t.Fatalf("%s with python3-cbor2 and python3-cryptography is required: %v\n%s", python, err, out)
		}
		t.Skipf("install python3-cbor2 and python3-cryptography to run the second implementation: %v", err)
	}
	out, err := exec.Command(python, "-B", vectorDir+"/check.py").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "vectors, 0 failed") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
