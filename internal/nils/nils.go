// Package nils tells whether an interface holds something.
package nils

import "reflect"

// Is reports whether v is nil, or holds a nil pointer: a variable of a pointer type that
// nobody has set is no nil interface any more where it is passed for one.
func Is(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}
