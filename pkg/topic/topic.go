// Package topic validates and matches MQTT topic names and topic filters, section 4.7 of
// MQTT 3.1.1 and MQTT 5.
package topic

import "errors"

var errTODO = errors.New("topic: not built yet")

type Error struct{ Clause, Reason string }

func (e *Error) Error() string { return e.Reason }

func ValidateName(b []byte) error                          { return nil }
func ValidateFilter(s string) error                        { return nil }
func Match[F, N ~string | ~[]byte](filter F, name N) bool  { return false }
func ShareFilter(f string) (group, filter string, ok bool) { return "", f, false }
func Overlap(a, b string) bool                             { return false }

// Set maps topic filters to values.
type Set[T any] struct{ v T }

func (s *Set[T]) Add(filter string, v T) error      { return errTODO }
func (s *Set[T]) Lookup(name []byte) (v T, ok bool) { return v, false }
