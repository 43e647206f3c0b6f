package cache

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
)

// A Codec turns values into bytes and back. It must be safe for concurrent use.
type Codec[V any] interface {
	Encode(v V) ([]byte, error)
	// Decode must not keep b.
	Decode(b []byte) (V, error)
}

// DefaultCodec returns the codec of values that brings none: the type's own
// encoding.BinaryMarshaler and BinaryUnmarshaler if V or *V has both, bytes and
// strings as they are, JSON for everything else.
func DefaultCodec[V any]() Codec[V] {
	var v V
	switch any(v).(type) {
	case []byte, string:
		return plainCodec[V]{}
	}
	if marshalsItself(&v) {
		return binaryCodec[V]{}
	}
	if t := reflect.TypeFor[V](); t.Kind() == reflect.Pointer && marshalsItself(v) {
		return pointerCodec[V]{elem: t.Elem()}
	}
	return jsonCodec[V]{}
}

func marshalsItself(v any) bool {
	_, marshals := v.(encoding.BinaryMarshaler)
	_, unmarshals := v.(encoding.BinaryUnmarshaler)
	return marshals && unmarshals
}

type jsonCodec[V any] struct{}

func (jsonCodec[V]) Encode(v V) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec[V]) Decode(b []byte) (v V, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}

// binaryCodec is for types whose pointer marshals itself. The method set of *V
// has the methods of V, too.
type binaryCodec[V any] struct{}

func (binaryCodec[V]) Encode(v V) ([]byte, error) {
	return any(&v).(encoding.BinaryMarshaler).MarshalBinary()
}

func (binaryCodec[V]) Decode(b []byte) (v V, err error) {
	err = any(&v).(encoding.BinaryUnmarshaler).UnmarshalBinary(b)
	return v, err
}

// pointerCodec is for pointer types that marshal themselves.
type pointerCodec[V any] struct{ elem reflect.Type }

func (pointerCodec[V]) Encode(v V) ([]byte, error) {
	if reflect.ValueOf(v).IsNil() {
		return nil, fmt.Errorf("cache: a nil %T cannot be encoded; return ErrNotFound for what does not exist", v)
	}
	return any(v).(encoding.BinaryMarshaler).MarshalBinary()
}

func (c pointerCodec[V]) Decode(b []byte) (v V, err error) {
	v = reflect.New(c.elem).Interface().(V)
	err = any(v).(encoding.BinaryUnmarshaler).UnmarshalBinary(b)
	return v, err
}

// plainCodec is for V = []byte and V = string.
type plainCodec[V any] struct{}

func (plainCodec[V]) Encode(v V) ([]byte, error) {
	switch v := any(v).(type) {
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	}
	return nil, fmt.Errorf("cache: %T is neither bytes nor a string", v)
}

func (plainCodec[V]) Decode(b []byte) (v V, err error) {
	switch any(v).(type) {
	case string:
		return any(string(b)).(V), nil
	default:
		return any(append([]byte(nil), b...)).(V), nil
	}
}
