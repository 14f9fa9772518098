// Package bypass holds that no device gets past a gateway. Every way that anybody thought of to carry bytes to a steered
// port is crafted, frame by frame, on the devices' side, and sent at real gateways in every steering mode and in every
// state that a gateway can be in. A capture on the broker's side is the judge. What it saw is printed as a matrix.
//
// Each site begins without any defence: what does not cross there proves nothing later, and is printed as such.
package bypass

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"sealgate/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestMatrix takes a gateway in each mode through its life under fire. Standard output gets the matrix.
func TestMatrix(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.NeedTool(t, "mosquitto")
	lab.NeedTool(t, "unshare")
	outcomes := make([]*outcome, len(modes))
	t.Run("modes", func(t *testing.T) { // returns when all of them have ended
		for i, m := range modes {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, m)
				s.live()
				outcomes[i] = s.judge()
			})
		}
	})
	if !slices.Contains(outcomes, nil) { // a site that did not live to its end has said why
		matrix := printed(outcomes)
		fmt.Print(matrix)
		if doc, err := os.ReadFile("../../docs/STEERING.md"); err != nil || !strings.Contains(string(doc), matrix) {
			t.Errorf("docs/STEERING.md does not show this matrix: %v", err)
		}
	}
}
