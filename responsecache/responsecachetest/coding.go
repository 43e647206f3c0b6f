package responsecachetest

import (
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// isIn looks at whether the body is page in a coding: "" for none, and "any" for
// one or none.
func isIn(coding, page string) check {
	if coding == "identity" {
		coding = ""
	}
	return func(t *testing.T, r *response) {
		t.Helper()
		used := r.header.Get("Content-Encoding")
		if coding != "any" && used != coding {
			t.Errorf("Content-Encoding is %q, want %q", used, coding)
		}
		body, err := decode(used, r.body)
		if err != nil || body != page {
			t.Errorf("the body, of %d bytes in %q, is %.60q when decoded (%v), and not what the origin has sent", len(r.body), used, body, err)
		}
	}
}

func isEmpty(t *testing.T, r *response) {
	t.Helper()
	if r.body != "" {
		t.Errorf("the body is %.60q, and must be empty", r.body)
	}
}

func decode(coding, body string) (string, error) {
	var r io.Reader = strings.NewReader(body)
	switch coding {
	case "":
	case "br":
		r = brotli.NewReader(r)
	case "gzip":
		unzipped, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		r = unzipped
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return "", err
		}
		defer d.Close()
		r = d
	default:
		return "", fmt.Errorf("the coding %q is not known", coding)
	}
	b, err := io.ReadAll(r)
	return string(b), err
}

// in says that the body is page in a coding, as isIn has them.
func (s *step) in(coding, page string) *step { return s.anyText().checked(isIn(coding, page)) }
