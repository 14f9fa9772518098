package topic

import (
	"bytes"
	"fmt"
	"strings"
)

// Set maps topic filters to values. The zero Set is empty and ready for use. Lookups may run
// concurrently once nothing is added any more.
type Set[T any] struct {
	root node[T]
	n    int
}

// node is one level of the trie; the path to it is a filter without its last level "#".
type node[T any] struct {
	literal map[string]*node[T]
	plus    *node[T]
	here    *T // value of the filter that ends here
	below   *T // value of the filter that ends in "#" below here
}

// Len is the number of filters in the set.
func (s *Set[T]) Len() int { return s.n }

// Add maps filter to v. It refuses a filter that is not valid, is a shared subscription or
// is in the set already.
func (s *Set[T]) Add(filter string, v T) error {
	if err := ValidateFilter(filter); err != nil {
		return fmt.Errorf("topic filter %q: %w", filter, err)
	}
	if strings.HasPrefix(filter, sharePrefix) {
		return fmt.Errorf("topic filter %q: a shared subscription names no topics of its own; give the filter behind its name", filter)
	}
	at := &s.root
	var place **T
	for rest, more := filter, true; more; {
		var level string
		if level, rest, more = strings.Cut(rest, "/"); level == "#" {
			place = &at.below
			break
		}
		at = at.child(level)
		place = &at.here
	}
	if *place != nil {
		return fmt.Errorf("topic filter %q is given twice", filter)
	}
	*place = &v
	s.n++
	return nil
}

// child returns the node for one level below n, making it if need be.
func (n *node[T]) child(level string) *node[T] {
	if level == "+" {
		if n.plus == nil {
			n.plus = new(node[T])
		}
		return n.plus
	}
	c := n.literal[level]
	if c == nil {
		if n.literal == nil {
			n.literal = make(map[string]*node[T])
		}
		c = new(node[T])
		n.literal[level] = c
	}
	return c
}

// Lookup returns the value of the filter that matches name. If several do, the most specific
// one wins: comparing level by level from the left, a literal beats "+", and "+" beats "#".
// It allocates nothing, and visits no node of the trie twice.
func (s *Set[T]) Lookup(name []byte) (v T, ok bool) {
	if len(name) == 0 {
		return v, false
	}
	p := s.root.lookup(name, name[0] != '$')
	if p == nil {
		return v, false
	}
	return *p, true
}

// lookup finds the value for the levels in name. wildcards is false in the first level of a
// name that begins with '$'.
func (n *node[T]) lookup(name []byte, wildcards bool) *T {
	level, rest, more := name, []byte(nil), false
	if i := bytes.IndexByte(name, '/'); i >= 0 {
		level, rest, more = name[:i], name[i+1:], true
	}
	if c := n.literal[string(level)]; c != nil {
		if v := c.descend(rest, more); v != nil {
			return v
		}
	}
	if !wildcards {
		return nil
	}
	if n.plus != nil {
		if v := n.plus.descend(rest, more); v != nil {
			return v
		}
	}
	return n.below
}

// descend goes on below n with what is left of a name; without more levels n is where it ends.
func (n *node[T]) descend(rest []byte, more bool) *T {
	switch {
	case more:
		return n.lookup(rest, true)
	case n.here != nil:
		return n.here
	}
	return n.below
}
