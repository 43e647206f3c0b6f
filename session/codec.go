package session

import (
	"encoding/json"
	"strings"
)

// A Codec turns values into bytes and back. It must be safe for concurrent use,
// and give equal bytes for equal values, or every Set is a write. JSON is one.
type Codec interface {
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes data into v, a pointer, and must not keep data.
	Unmarshal(data []byte, v any) error
}

// JSON is the default Codec.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// plainText is Unmarshal of a string without escapes into a *string, and reports whether
// it was that. Many values are, and package json takes two pieces of memory more.
func (jsonCodec) plainText(data string, v any) bool {
	into, ok := v.(*string)
	n := len(data)
	if !ok || into == nil || n < 2 || data[0] != '"' || data[n-1] != '"' {
		return false
	}
	text := data[1 : n-1]
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	*into = strings.Clone(text) // it must not keep the whole session in memory
	return true
}
