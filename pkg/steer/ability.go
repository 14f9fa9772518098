package steer

// Ability is one thing that this kernel and this process can do, or cannot and why.
type Ability struct {
	Name   string // short, stable: "tcx", "clsact", "classifier", "transparent", "nf_tables", "policy-route", "bpffs"
	OK     bool
	Detail string // what was tried and, when not OK, what is missing
}

// Abilities probes the kernel. It changes nothing that outlives the call.
func Abilities() []Ability { return nil }
