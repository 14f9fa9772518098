package steer

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// clock reads the kernel's jiffies, which no system call tells, by two programs of three instructions: a program's
// result has 32 bits.
type clock struct {
	halves [2]*ebpf.Program // lower, upper
	tick   time.Duration
}

func (c *clock) open() error {
	var resolution unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &resolution); err != nil {
		return err
	}
	if c.tick = time.Duration(resolution.Nano()); c.tick <= 0 {
		return fmt.Errorf("a tick of %v", c.tick)
	}
	for i := range c.halves {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{
			asm.FnJiffies64.Call(), asm.RSh.Imm(asm.R0, int32(32*i)), asm.Return(),
		}})
		if err != nil {
			c.close()
			return err
		}
		c.halves[i] = p
	}
	return nil
}

func (c *clock) close() {
	for _, p := range c.halves {
		if p != nil {
			p.Close()
		}
	}
}

// now returns jiffies_64.
func (c *clock) now() (uint64, error) {
	for {
		var v [3]uint32
		for i, p := range []*ebpf.Program{c.halves[1], c.halves[0], c.halves[1]} {
			r, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
			if err != nil {
				return 0, err
			}
			v[i] = r
		}
		if v[0] == v[2] {
			return uint64(v[0])<<32 | uint64(v[1]), nil
		}
	}
}
