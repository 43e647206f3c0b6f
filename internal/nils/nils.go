// Package nils tells whether an interface holds something.
package nils

import "reflect"

// Is reports whether v is nil, or holds a nil pointer or function: a variable of such a
// type that nobody has set is no nil interface any more where it is passed for one.
func Is(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// MustWrap panics, in the name of method, if there is no next handler.
func MustWrap(method string, next any) {
	if Is(next) {
		panic(method + " needs a handler to wrap, and got nil")
	}
}
