package redistest

import (
	"crypto/rand"
	"encoding/hex"
	"testing"
)

// Prefix returns a random prefix for the keys of one test, such as
// "t4f9a2c1b07:", so that tests can share a server. It holds no braces: what
// hash tag a key has remains the caller's choice.
func Prefix(testing.TB) string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return "t" + hex.EncodeToString(b[:]) + ":"
}
