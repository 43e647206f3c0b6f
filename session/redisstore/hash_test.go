package redisstore_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// FuzzParseHash: whatever a server answers, what is taken for a hash is one as a
// server writes it.
func FuzzParseHash(f *testing.F) {
	for _, answer := range []string{
		"*0\r\n", "%0\r\n", "*4\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nb\r\n$2\r\n\r\n\r\n", "%1\r\n$1\r\na\r\n$1\r\nb\r\n",
		"-MOVED 1 127.0.0.1:7000\r\n", "*1\r\n$1\r\na\r\n", "%1\r\n$1\r\na\r\n:1\r\n", "%9999999999\r\n", "$-1\r\n", "_\r\n", "",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		names, values, ok := redisstore.ParseHash(answer)
		if !ok {
			return
		}
		assert.True(t, bytes.Equal(answer, hashOf('*', names, values)) || bytes.Equal(answer, hashOf('%', names, values)))
	})
}

// hashOf is a hash as a server writes it, with either protocol.
func hashOf(kind byte, names []string, values [][]byte) []byte {
	n := len(names)
	if kind == '*' {
		n *= 2
	}
	b := fmt.Appendf(nil, "%c%d\r\n", kind, n)
	for i := range names {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n$%d\r\n%s\r\n", len(names[i]), names[i], len(values[i]), values[i])
	}
	return b
}

func TestParseHashRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "values")
		names := make([]string, len(values))
		for i := range names {
			names[i] = rapid.String().Draw(t, "name")
		}
		for _, kind := range []byte{'*', '%'} {
			gotNames, gotValues, ok := redisstore.ParseHash(hashOf(kind, names, values))
			require.True(t, ok)
			require.Equal(t, names, gotNames)
			require.Len(t, gotValues, len(values))
			for i, value := range values {
				require.True(t, bytes.Equal(value, gotValues[i]))
				require.Equal(t, len(gotValues[i]), cap(gotValues[i]), "who appends to a value gets another piece of memory")
			}
		}
	})
}
