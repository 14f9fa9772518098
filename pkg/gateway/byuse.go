package gateway

// links tie an element into the one list that it is in.
type links[T any] struct{ prev, next *T }

// linked is a pointer to a T that has its links in it.
type linked[T any] interface {
	*T
	list() *links[T]
}

// byUse is a list in the order of use, the newest first. Its zero value is empty; it allocates nothing.
type byUse[T any, P linked[T]] struct{ newest, oldest *T }

// link puts s in front. s must not be in a list.
func (l *byUse[T, P]) link(s *T) {
	*P(s).list() = links[T]{next: l.newest}
	if l.newest != nil {
		P(l.newest).list().prev = s
	} else {
		l.oldest = s
	}
	l.newest = s
}

// unlink takes s out.
func (l *byUse[T, P]) unlink(s *T) {
	at := P(s).list()
	if at.prev != nil {
		P(at.prev).list().next = at.next
	} else {
		l.newest = at.next
	}
	if at.next != nil {
		P(at.next).list().prev = at.prev
	} else {
		l.oldest = at.prev
	}
	*at = links[T]{}
}

// touch makes s the newest.
func (l *byUse[T, P]) touch(s *T) {
	l.unlink(s)
	l.link(s)
}
