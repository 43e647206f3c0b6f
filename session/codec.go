package session

import "encoding/json"

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
