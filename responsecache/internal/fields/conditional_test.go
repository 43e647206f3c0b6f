package fields_test

import (
	"net/http"
	"testing"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
)

const (
	earlier = "Sun, 06 Nov 1994 08:49:36 GMT"
	moment  = "Sun, 06 Nov 1994 08:49:37 GMT"
	later   = "Sun, 06 Nov 1994 08:49:38 GMT"
)

// RFC 9110 §13.1.2, §8.8.3.2.
func TestIfNoneMatch(t *testing.T) {
	tests := []struct {
		name, etag string
		values     []string
		want       bool
	}{
		{"same", `"a"`, []string{`"a"`}, true},
		{"other", `"a"`, []string{`"b"`}, false},
		{"case of the tag", `"a"`, []string{`"A"`}, false},
		{"weak in the request", `"a"`, []string{`W/"a"`}, true},
		{"weak in the response", `W/"a"`, []string{`"a"`}, true},
		{"both weak", `W/"a"`, []string{`W/"a"`}, true},
		{"case of the weakness", `"a"`, []string{`w/"a"`}, false},
		{"no slash", `W/"a"`, []string{`W"a"`}, false},
		{"list", `"c"`, []string{`"a" , W/"b",,"c"`}, true},
		{"lines", `"c"`, []string{`"a"`, `"b", "c"`}, true},
		{"comma in a tag", `"a,b"`, []string{`"x", "a,b"`}, true},
		{"part of a tag", `"b"`, []string{`"a,"b","c"`}, false},
		{"backslash is no escape", `"a\"`, []string{`"x", "a\", "b"`}, true},
		{"empty tag", `""`, []string{`""`}, true},
		{"white space in a tag", `"a b"`, []string{`W/"a b"`}, true},
		{"anything", `"a"`, []string{"*"}, true},
		{"anything, no tag", "", []string{" * "}, true},
		{"anything and more", `"a"`, []string{`"b", *`}, false},
		{"asterisk in a tag", `"a"`, []string{`"*"`}, false},
		{"no tag", "", []string{`"a"`}, false},
		{"empty field", `"a"`, []string{""}, false},
		{"empty field, no tag", "", []string{"", ","}, false},
		{"neither quoted", "abc", []string{`"x", abc`}, true},
		{"neither quoted, other", "abc", []string{"abd"}, false},
		{"only the request is quoted", "abc", []string{`"abc"`}, false},
		{"only the response is quoted", `"abc"`, []string{"abc"}, false},
		{"weak, neither quoted", "abc", []string{"W/abc"}, false},
		{"garbage after a tag", `"a"`, []string{`"a"b, "c"`}, false},
		{"after garbage", `"c"`, []string{`"a"b, "c"`}, true},
		{"no closing quote", `"a"`, []string{`"a`}, false},
		{"after no closing quote", `"b`, []string{`"a, "b`}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			response := http.Header{"Last-Modified": {moment}}
			if tt.etag != "" {
				response.Set("ETag", tt.etag)
			}
			request := http.Header{"If-None-Match": tt.values, "If-Modified-Since": {later}}
			assert.Equal(t, tt.want, fields.NotModified(request, response, now), "and If-Modified-Since is ignored")
		})
	}
	twice := http.Header{"Etag": {`"a"`, `"b"`}}
	assert.False(t, fields.NotModified(http.Header{"If-None-Match": {`"a"`}}, twice, now), "nobody knows which tag it is")
}

// RFC 9110 §13.1.3, RFC 9111 §4.3.2.
func TestIfModifiedSince(t *testing.T) {
	tests := []struct {
		name     string
		since    []string
		response http.Header
		want     bool
	}{
		{"absent", nil, http.Header{"Last-Modified": {moment}}, false},
		{"not modified", []string{later}, http.Header{"Last-Modified": {moment}}, true},
		{"not modified since that moment", []string{moment}, http.Header{"Last-Modified": {moment}}, true},
		{"modified", []string{earlier}, http.Header{"Last-Modified": {moment}}, false},
		{"obsolete form", []string{"Sunday, 06-Nov-94 08:49:37 GMT"}, http.Header{"Last-Modified": {moment}}, true},
		{"Last-Modified beats Date", []string{moment}, http.Header{"Last-Modified": {later}, "Date": {earlier}}, false},
		{"Date", []string{moment}, http.Header{"Date": {moment}}, true},
		{"Date is later", []string{moment}, http.Header{"Date": {later}}, false},
		{"neither", []string{moment}, http.Header{}, false},
		{"malformed", []string{"yesterday"}, http.Header{"Last-Modified": {moment}}, false},
		{"wrong zone", []string{"Sun, 06 Nov 1994 08:49:38 UTC"}, http.Header{"Last-Modified": {moment}}, false},
		{"repeated", []string{later, later}, http.Header{"Last-Modified": {moment}}, false},
		{"list", []string{later + ", " + later}, http.Header{"Last-Modified": {moment}}, false},
		{"malformed Last-Modified", []string{later}, http.Header{"Last-Modified": {"0"}, "Date": {moment}}, false},
		{"repeated Last-Modified", []string{later}, http.Header{"Last-Modified": {moment, moment}, "Date": {moment}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, fields.NotModified(http.Header{"If-Modified-Since": tt.since}, tt.response, now))
		})
	}
}

// RFC 9110 §13.1.5, §8.8.2.2.
func TestIfRange(t *testing.T) {
	dated := http.Header{"Last-Modified": {moment}, "Date": {later}}
	tests := []struct {
		name     string
		values   []string
		response http.Header
		want     bool
	}{
		{"absent", nil, http.Header{}, true},
		{"same tag", []string{`"a"`}, http.Header{"Etag": {`"a"`}}, true},
		{"other tag", []string{`"b"`}, http.Header{"Etag": {`"a"`}}, false},
		{"weak in the request", []string{`W/"a"`}, http.Header{"Etag": {`"a"`}}, false},
		{"weak in the response", []string{`"a"`}, http.Header{"Etag": {`W/"a"`}}, false},
		{"both weak", []string{`W/"a"`}, http.Header{"Etag": {`W/"a"`}}, false},
		{"no tag", []string{`"a"`}, dated, false},
		{"not quoted", []string{"a"}, http.Header{"Etag": {"a"}}, false},
		{"list of tags", []string{`"a", "b"`}, http.Header{"Etag": {`"a"`}}, false},
		{"asterisk", []string{"*"}, http.Header{"Etag": {`"a"`}}, false},
		{"empty", []string{""}, http.Header{"Etag": {`"a"`}}, false},
		{"repeated", []string{`"a"`, `"a"`}, http.Header{"Etag": {`"a"`}}, false},
		{"same date", []string{moment}, dated, true},
		{"same date in another form", []string{"Sun Nov  6 08:49:37 1994"}, dated, true},
		{"later date", []string{later}, dated, false},
		{"earlier date", []string{earlier}, dated, false},
		{"date within the second", []string{moment}, http.Header{"Last-Modified": {moment}, "Date": {moment}}, false},
		{"no Date", []string{moment}, http.Header{"Last-Modified": {moment}}, false},
		{"no Last-Modified", []string{moment}, http.Header{"Date": {moment}}, false},
		{"malformed date", []string{"yesterday"}, dated, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, fields.IfRange(http.Header{"If-Range": tt.values}, tt.response, now))
		})
	}
}

// RFC 9110 §8.8.3.3.
func TestETagSuffix(t *testing.T) {
	tests := []struct{ name, etag, want string }{
		{"strong", `"abc"`, `"abc-gzip"`},
		{"weak", `W/"abc"`, `W/"abc-gzip"`},
		{"empty tag", `""`, `"-gzip"`},
		{"suffixed already", `"abc-gzip"`, `"abc-gzip-gzip"`},
		{"absent", "", ""},
		{"not quoted", "abc", "abc"},
		{"half quoted", `"abc`, `"abc`},
		{"only a quote", `"`, `"`},
		{"two tags", `"a", "b"`, `"a", "b"`},
		{"lower-case weakness", `w/"abc"`, `w/"abc"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, fields.SuffixETag(tt.etag, "gzip"))
			assert.Equal(t, tt.etag, fields.StripETagSuffix(tt.want, "gzip"))
			assert.Equal(t, tt.etag, fields.SuffixETag(tt.etag, ""))
		})
	}
	assert.Equal(t, `"abc"`, fields.StripETagSuffix(`"abc"`, "gzip"), "never suffixed")
	assert.Equal(t, `"abc-br"`, fields.StripETagSuffix(`"abc-br"`, "gzip"), "another coding")
}
