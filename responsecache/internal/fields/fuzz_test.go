package fields_test

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
)

func checkDirectives(t *testing.T, d fields.Directives) {
	t.Helper()
	for _, name := range []string{"", "max-age", "private", "no-cache", "a"} {
		seconds, ok := d.Seconds(name)
		assert.True(t, seconds >= 0 && seconds <= math.MaxInt32*time.Second)
		assert.Equal(t, d.Has(name), ok)
		list := d.Fields(name)
		assert.Equal(t, list != nil, d.Qualified(name))
		assert.True(t, slices.IsSorted(list))
		for _, field := range list {
			assert.Equal(t, http.CanonicalHeaderKey(field), field)
		}
		if list != nil {
			assert.True(t, d.Has(name))
		}
	}
}

func FuzzCacheControl(f *testing.F) {
	for _, seed := range []string{
		"max-age=60", `max-age="60", private`, `a="b,\"", max-age=1`, "=", ",,=,", `"`, "max-age =5", `private="a`, "\x00",
		`private="a, b"`, `foo=a", max-age=60, x=", y="`, "must-understand, private; x", `a="\`,
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		d := fields.ParseCacheControl([]string{a, b})
		checkDirectives(t, d)
		both := fields.ParseCacheControl([]string{a, b, "private"})
		assert.True(t, both.Has("private"), "the plainest form is always understood")
		assert.False(t, both.Qualified("private"))
		if d.Has("private") {
			assert.Contains(t, strings.ToLower(a+b), "private")
		}
	})
}

func FuzzTargeted(f *testing.F) {
	for _, seed := range []string{
		"max-age=60", "max-age=60;a=b, private", `private="a, b"`, "Max-Age=60", "a=(1 2);b", "a=?0", "a=:AA==:", "a=@1", `a=%"%c3%a9"`, "a=1.5, *b", "a=-", "a=;",
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		d, ok := fields.ParseTargeted([]string{a, b})
		if !ok {
			assert.Zero(t, d)
		}
		checkDirectives(t, d)
	})
}

func FuzzSelecting(f *testing.F) {
	for _, seed := range []string{"gzip, br;q=0.5", "*/*;q=0", "text/html;level=1; q=1.000", `a;x="b,c"`, "en-GB,en;q=0.50", "", ",", ";", "\xff", "K"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, name := range []string{"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "X"} {
			value, present := fields.Selecting(http.Header{name: {a, b}}, name, true)
			assert.True(t, present)
			one, _ := fields.Selecting(http.Header{name: {a + "," + b}}, name, true)
			assert.Equal(t, one, value, "lines are one")
			again, _ := fields.Selecting(http.Header{name: {value}}, name, true)
			assert.Equal(t, value, again, "a normal form is its own")
		}
		// A field that may be no list has the same form only if it is the same.
		if !strings.ContainsAny(a+b, "\r\n") { // as in no request
			two, _ := fields.Selecting(http.Header{"X": {a, b}}, "X", false)
			for _, other := range [][]string{{a}, {b}, {a + "," + b}, {a + ", " + b}, {b, a}} {
				form, _ := fields.Selecting(http.Header{"X": other}, "X", false)
				assert.Equal(t, slices.Equal([]string{a, b}, other), form == two)
			}
		}
		for _, member := range fields.Members([]string{a, b}) {
			assert.NotEmpty(t, strings.Trim(member, " \t"))
			assert.NotContains(t, member, ",")
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, seed := range []string{
		"bytes=0-499", "bytes=-5", "bytes=5-", "bytes=0-0,-1", "BYTES= 0-9 ,, 2-3", "bytes=-0", "bytes=9-1", "bytes=", "bytes=-",
		"bytes=99999999999999999999-", "bytes=0-99999999999999999999", "bytes=1-1,1-1,1-1,1-1", "lines=1-2",
	} {
		f.Add(seed, int64(100))
		f.Add(seed, int64(math.MaxInt64))
	}
	f.Fuzz(func(t *testing.T, value string, size int64) {
		ranges, satisfiable, ok := fields.ParseRange(value, size)
		assert.True(t, ok || !satisfiable)
		assert.Equal(t, satisfiable, len(ranges) > 0)
		assert.LessOrEqual(t, len(ranges), 16)
		left := size
		for _, r := range ranges {
			assert.GreaterOrEqual(t, r.Start, int64(0))
			assert.Positive(t, r.Length)
			assert.LessOrEqual(t, r.Length, size-r.Start)
			left -= r.Length
			assert.GreaterOrEqual(t, left, int64(0))
		}
	})
}

func FuzzConditional(f *testing.F) {
	for _, seed := range []string{`"a"`, `W/"a"`, `"a,b", "c"`, "*", "abc", `"`, `"a"b, "c"`, "Sun, 06 Nov 1994 08:49:37 GMT", "", `W/`, ",,"} {
		f.Add(seed, `"a"`, "Sun, 06 Nov 1994 08:49:38 GMT")
		f.Add(`"a"`, seed, seed)
	}
	f.Fuzz(func(t *testing.T, condition, etag, date string) {
		response := http.Header{"Etag": {etag}, "Last-Modified": {date}, "Date": {date}}
		for _, name := range []string{"If-None-Match", "If-Modified-Since"} {
			fields.NotModified(http.Header{name: {condition}}, response, now)
			fields.NotModified(http.Header{name: {condition, condition}}, response, now)
		}
		if fields.IfRange(http.Header{"If-Range": {condition}}, response, now) {
			assert.Equal(t, strings.Trim(etag, " \t"), strings.Trim(condition, " \t"), "a date is not strong here")
		}
		suffixed := fields.SuffixETag(etag, "gzip")
		assert.Equal(t, etag, fields.StripETagSuffix(suffixed, "gzip"))
		if suffixed != etag && strings.Trim(etag, " \t") == etag {
			assert.True(t, fields.NotModified(http.Header{"If-None-Match": {condition + ", " + suffixed}}, http.Header{"Etag": {suffixed}}, now) ||
				strings.Contains(condition, `"`), "the tag is found behind anything that is not quoted")
		}
	})
}

func FuzzNegotiate(f *testing.F) {
	for _, seed := range []string{"gzip", "gzip;q=0", "*", "*;q=0", "identity;q=0", "br;q=0.5, gzip", "x-gzip", "", "gzip;q=2", "identity; q=0.5, *;q=0"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		coding, ok := fields.Negotiate([]string{a, b}, []string{"zstd", "gzip"})
		assert.Contains(t, []string{"zstd", "gzip", "identity"}, coding)
		if !ok {
			assert.Equal(t, "identity", coding)
			assert.Contains(t, a+b, "0")
		}
		if !strings.Contains(a+b, "*") && coding != "identity" {
			assert.Contains(t, strings.ToLower(a+","+b), coding)
		}
		plain, _ := fields.Negotiate([]string{a, b}, nil)
		assert.Equal(t, "identity", plain)
	})
}

func FuzzNoVarySearch(f *testing.F) {
	for _, seed := range []string{"key-order", `params=("a" "b")`, `except=("a+%20")`, `params, except=("x")`, "params=()", "key-order, except=()", `params=("%ff")`} {
		for _, query := range []string{"", "a=1&b=2", "b&a", "%61=%78", "a=%f6", "a=%E2%82&%", "&&=&+"} {
			f.Add(seed, query)
		}
	}
	f.Fuzz(func(t *testing.T, field, query string) {
		n, ok := fields.ParseNoVarySearch([]string{field})
		assert.Equal(t, ok, n.String() != "")
		if again, valid := fields.ParseNoVarySearch([]string{n.String()}); assert.Equal(t, ok, valid) {
			assert.Equal(t, n.String(), again.String())
			assert.Equal(t, n.Canonical(query), again.Canonical(query))
		}
		assert.Equal(t, n.Canonical(query), n.Canonical(n.Canonical(query)))
	})
}

func FuzzGroups(f *testing.F) {
	for _, seed := range []string{`"a"`, `"a", "b";x=1`, `"\"\\"`, "a", `("a")`, `"a",`, `""`, `"é"`} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		groups := fields.ParseGroups([]string{a, b})
		assert.LessOrEqual(t, len(groups), 128)
		for _, group := range groups {
			assert.LessOrEqual(t, len(group), 256)
		}
	})
}
