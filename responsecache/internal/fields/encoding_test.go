package fields_test

import (
	"fmt"
	"testing"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
)

func formatRange(first, last int64) string { return fmt.Sprintf("bytes=%d-%d", first, last) }

// RFC 9110 §12.5.3, §12.4.2.
func TestNegotiate(t *testing.T) {
	both := []string{"zstd", "gzip"}
	tests := []struct {
		name    string
		values  []string
		offered []string
		want    string
		ok      bool
	}{
		{"absent", nil, both, "identity", true},
		{"empty", []string{""}, both, "identity", true},
		{"one", []string{"gzip"}, both, "gzip", true},
		{"the server prefers", []string{"gzip, zstd"}, both, "zstd", true},
		{"the client prefers", []string{"zstd;q=0.9, gzip"}, both, "gzip", true},
		{"lines", []string{"zstd;q=0.2", "gzip;q=0.3"}, both, "gzip", true},
		{"least weight", []string{"gzip;q=0.001"}, both, "gzip", true},
		{"excluded", []string{"gzip;q=0"}, both, "identity", true},
		{"one is excluded", []string{"zstd;q=0.000, gzip;q=0.5"}, both, "gzip", true},
		{"not offered", []string{"br, compress"}, both, "identity", true},
		{"nothing is offered", []string{"gzip"}, nil, "identity", true},
		{"any", []string{"*"}, both, "zstd", true},
		{"any other", []string{"zstd;q=0, *"}, both, "gzip", true},
		{"any other less", []string{"*;q=0.1, gzip"}, both, "gzip", true},
		{"no other", []string{"*;q=0, gzip"}, both, "gzip", true},
		{"none at all", []string{"*;q=0"}, both, "identity", false},
		{"none but identity", []string{"*;q=0, identity;q=0.1"}, both, "identity", true},
		{"not identity", []string{"identity;q=0"}, both, "identity", false},
		{"not identity, any other", []string{"identity;q=0, *"}, both, "zstd", true},
		{"not identity, not offered", []string{"br, identity;q=0"}, both, "identity", false},
		{"any less", []string{"br, *;q=0.5"}, []string{"gzip"}, "gzip", true},
		{"identity preferred", []string{"gzip;q=0.5, identity"}, both, "identity", true},
		{"identity as good", []string{"identity, gzip"}, both, "gzip", true},
		{"identity less", []string{"gzip;q=0.5, identity;q=0.4"}, both, "gzip", true},
		{"any case", []string{"GZip;Q=0.5"}, both, "gzip", true},
		{"white space", []string{" gzip ;\tq=0.5 "}, both, "gzip", true},
		{"old name in the request", []string{"x-gzip"}, both, "gzip", true},
		{"old name in the offer", []string{"gzip"}, []string{"x-gzip"}, "x-gzip", true},
		{"other old name", []string{"x-compress"}, []string{"compress"}, "compress", true},
		{"twice", []string{"gzip, x-gzip;q=0"}, both, "identity", true},
		{"malformed weight", []string{"zstd;q=2, gzip;q=0.5"}, both, "gzip", true},
		{"malformed exclusion", []string{"gzip, identity;q=0.0000"}, nil, "identity", true},
		{"parameter", []string{"zstd;x=1, gzip"}, both, "gzip", true},
		{"two words", []string{"zstd gzip"}, both, "identity", true},
		{"identity offered", []string{"*"}, []string{"identity", "gzip"}, "gzip", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			coding, ok := fields.Negotiate(tt.values, tt.offered)
			assert.Equal(t, tt.want, coding)
			assert.Equal(t, tt.ok, ok)
		})
	}
}
