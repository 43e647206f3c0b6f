package session

import (
	"slices"
	"strings"
)

// Values are encoded values by name, in ascending order of the names, no two of
// which are equal. What a store returns may be parts of one answer of its backend,
// so that reading a session of many values costs little more than one of few: a
// value is copied when somebody asks for it.
//
// Values are not changed in place; the nil Values are none.
type Values []Entry

// Entry is a value and its name, any bytes both.
type Entry struct {
	Name, Data string
	// LeftOut is how many bytes the value has if Store.Load has left it out. Data is
	// empty then. Zero means that Data is the value.
	LeftOut int
}

func (e Entry) size() int { return len(e.Name) + len(e.Data) + e.LeftOut }

// ValuesOf returns the Values of a map.
func ValuesOf(values map[string][]byte) Values {
	v := make(Values, 0, len(values))
	for name, data := range values {
		v = append(v, Entry{Name: name, Data: string(data)})
	}
	return v.Sort()
}

// Sort brings entries into the order of Values, in place, and returns them.
func (v Values) Sort() Values {
	if !slices.IsSortedFunc(v, byName) {
		slices.SortFunc(v, byName)
	}
	return v
}

func byName(a, b Entry) int { return strings.Compare(a.Name, b.Name) }

// Get returns the value called name, and whether there is one.
func (v Values) Get(name string) (data string, ok bool) {
	e, ok := v.entry(name)
	return e.Data, ok
}

func (v Values) entry(name string) (Entry, bool) {
	i, ok := v.place(name)
	if !ok {
		return Entry{}, false
	}
	return v[i], true
}

// place returns where the entry called name is, or would be.
func (v Values) place(name string) (int, bool) {
	return slices.BinarySearchFunc(v, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
}

// Map returns a copy of the values, not nil. Those that were left out are empty.
func (v Values) Map() map[string][]byte {
	m := make(map[string][]byte, len(v))
	for _, e := range v {
		m[e.Name] = []byte(e.Data)
	}
	return m
}

// with returns v with set and without those that are deleted.
func (v Values) with(set map[string][]byte, deleted []string) Values {
	next := append(make(Values, 0, len(v)+len(set)), v...)
	next = slices.DeleteFunc(next, func(e Entry) bool { return slices.Contains(deleted, e.Name) })
	for name, data := range set {
		e := Entry{Name: name, Data: string(data)}
		if i, there := next.place(name); there {
			next[i] = e
		} else {
			next = slices.Insert(next, i, e)
		}
	}
	return next
}
