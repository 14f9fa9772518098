package firmware

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"sealgate/test/lab"
)

// Everything that an appliance's shell runs, and what makes its image, is without a word of shellcheck's.
func TestScripts(t *testing.T) {
	check := lab.NeedTool(t, "shellcheck")
	dir := filepath.Join(lab.Root(t), "firmware-image")
	var scripts []string
	for _, pattern := range []string{"*.sh", "appliance/*.sh", "appliance/initramfs-init", "appliance/root/etc/init.d/*", "appliance/root/usr/sbin/*", "appliance/root/usr/share/sealgate/udhcpc"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		scripts = slices.Concat(scripts, found)
	}
	if len(scripts) < 10 {
		t.Fatalf("only %d scripts found: %v", len(scripts), scripts)
	}
	if out, err := exec.Command(check, slices.Concat([]string{"-s", "sh", "-x", "-e", "SC1091"}, scripts)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
