package fence_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/herdless/herdless/lock/fence"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFromHeader(t *testing.T) {
	tests := []struct {
		name   string
		fields []string
		want   uint64 // 0 if it must be refused
	}{
		{"a token", []string{"1767225600000000"}, 1767225600000000},
		{"the smallest", []string{"1"}, 1},
		{"the largest", []string{"18446744073709551615"}, math.MaxUint64},
		{"missing", nil, 0},
		{"empty", []string{""}, 0},
		{"zero", []string{"0"}, 0},
		{"one too many", []string{"18446744073709551616"}, 0},
		{"far too many", []string{string(bytes.Repeat([]byte("9"), 10000))}, 0},
		{"plus", []string{"+1"}, 0},
		{"minus", []string{"-1"}, 0},
		{"leading zero", []string{"01"}, 0},
		{"space before", []string{" 1"}, 0},
		{"space after", []string{"1 "}, 0},
		{"hexadecimal", []string{"0x1"}, 0},
		{"fraction", []string{"1.0"}, 0},
		{"exponent", []string{"1e15"}, 0},
		{"underscore", []string{"1_000"}, 0},
		{"other digits", []string{"١"}, 0},
		{"NUL", []string{"1\x00"}, 0},
		{"a list", []string{"1, 2"}, 0},
		{"two fields", []string{"1", "1"}, 0},
		{"two fields, one empty", []string{"", "1"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for _, field := range tt.fields {
				h.Add("fencing-token", field)
			}
			got, err := fence.FromHeader(h)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.want == 0, err != nil, "%v", err)
			assert.Equal(t, tt.fields == nil, errors.Is(err, fence.ErrMissing), "malformed is not missing: %v", err)
			if err != nil {
				assert.Less(t, len(err.Error()), 200, "the error can be logged")
			}
		})
	}
}

func TestSetHeader(t *testing.T) {
	h := http.Header{fence.Header: {"1", "2"}}
	fence.SetHeader(h, math.MaxUint64)
	got, err := fence.FromHeader(h)
	require.NoError(t, err)
	assert.EqualValues(t, uint64(math.MaxUint64), got)

	fence.SetHeader(h, 0)
	_, err = fence.FromHeader(h)
	require.Error(t, err, "the zero token is none")
}

// What is understood is what SetHeader writes, and nothing else.
func FuzzFromHeader(f *testing.F) {
	for _, s := range []string{"", "0", "1", "01", "+1", "-1", " 1", "1 ", "1_0", "0x1", "1e3", "1,2", "18446744073709551615", "18446744073709551616", "99999999999999999999999", "\x00", "١"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := fence.FromHeader(http.Header{fence.Header: {s}})
		if err != nil {
			if token != 0 || errors.Is(err, fence.ErrMissing) {
				t.Fatalf("%q: got %d, %v", s, token, err)
			}
			if n, err := strconv.ParseUint(s, 10, 64); err == nil && n > 0 && s == strconv.FormatUint(n, 10) {
				t.Fatalf("%q is a token and was refused", s)
			}
			return
		}
		h := http.Header{}
		fence.SetHeader(h, token)
		if token == 0 || h.Get(fence.Header) != s {
			t.Fatalf("%q was understood as %d, which is written %q", s, token, h.Get(fence.Header))
		}
	})
}

func TestRequire(t *testing.T) {
	const inside = "what only the operator may know"
	tests := []struct {
		name   string
		fields []string
		write  func(w http.ResponseWriter) error
		status int
		detail string // part of it; "-" if there is no problem document
		logged string
	}{
		{name: "written", fields: []string{"7"}, status: 204, detail: "-", write: func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}},
		{name: "written, without an answer", fields: []string{"7"}, status: 200, detail: "-", write: func(http.ResponseWriter) error { return nil }},
		{name: "missing", status: 400, detail: fence.Header},
		{name: "malformed", fields: []string{"seven"}, status: 400, detail: fence.Header},
		{name: "twice", fields: []string{"7", "7"}, status: 400, detail: fence.Header},
		{name: "stale", fields: []string{"7"}, status: 409, detail: "new lease", logged: "level=WARN", write: func(w http.ResponseWriter) error {
			w.Header().Set("ETag", `"of the write"`)
			w.Header().Set("Content-Encoding", "gzip")
			return fmt.Errorf(inside+": %w", &fence.StaleError{Token: 7, Largest: 8})
		}},
		{name: "broken", fields: []string{"7"}, status: 500, logged: "level=ERROR", write: func(w http.ResponseWriter) error {
			w.Header().Set("ETag", `"of the write"`)
			return errors.New(inside)
		}},
		{name: "refused by its own words", fields: []string{"7"}, status: 422, detail: "-", write: func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := logged(t)
			called := false
			h := fence.Require(func(w http.ResponseWriter, _ *http.Request, token uint64) error {
				called = true
				assert.EqualValues(t, 7, token)
				return tt.write(w)
			})
			w := httptest.NewRecorder()
			w.Header().Set("X-Request-Id", "outer")
			r := httptest.NewRequest(http.MethodPut, "/", nil)
			r.Header[fence.Header] = tt.fields
			h.ServeHTTP(w, r)

			assert.Equal(t, tt.status, w.Code)
			assert.Equal(t, tt.write != nil, called)
			assert.Equal(t, "outer", w.Header().Get("X-Request-Id"), "what others have set stays")
			if tt.logged == "" {
				assert.Empty(t, log.String())
			} else {
				assert.Contains(t, log.String(), tt.logged)
				assert.Contains(t, log.String(), inside)
			}
			if tt.detail == "-" {
				return
			}
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			assert.Equal(t, strconv.Itoa(w.Body.Len()), w.Header().Get("Content-Length"))
			assert.Empty(t, w.Header().Get("ETag"), "what the write has set is taken back")
			assert.Empty(t, w.Header().Get("Content-Encoding"))
			assert.NotContains(t, w.Body.String(), inside)
			var got struct {
				Type, Title, Detail string
				Status              int
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			assert.Equal(t, "about:blank", got.Type)
			assert.Equal(t, http.StatusText(tt.status), got.Title)
			assert.Equal(t, tt.status, got.Status)
			assert.Contains(t, got.Detail, tt.detail)
		})
	}
}

// A response that has begun as a success must not end as one.
func TestAnErrorAfterTheHeaderCutsTheResponseOff(t *testing.T) {
	for name, err := range map[string]error{"stale": fence.ErrStale, "broken": errors.New("broken")} {
		t.Run(name, func(t *testing.T) {
			logged(t)
			server := httptest.NewServer(fence.Require(func(w http.ResponseWriter, _ *http.Request, _ uint64) error {
				_, _ = io.WriteString(w, "done")
				assert.NoError(t, http.NewResponseController(w).Flush())
				return err
			}))
			defer server.Close()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, nil)
			require.NoError(t, err)
			fence.SetHeader(r.Header, 7)
			resp, err := server.Client().Do(r)
			if err == nil {
				defer resp.Body.Close()
				_, err = io.ReadAll(resp.Body)
			}
			require.Error(t, err)
		})
	}
}

func TestAPanicPassesThroughRequire(t *testing.T) {
	h := fence.Require(func(http.ResponseWriter, *http.Request, uint64) error { panic("of the write") })
	r := httptest.NewRequest(http.MethodPut, "/", nil)
	fence.SetHeader(r.Header, 7)
	assert.PanicsWithValue(t, "of the write", func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	assert.Panics(t, func() { fence.Require(nil) }, "at the start, not at the first request")
}

// logged returns what is written to slog's default logger from now on.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&buf, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &buf
}
