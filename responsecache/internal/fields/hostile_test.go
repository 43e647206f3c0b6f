package fields_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/herdless/herdless/responsecache/internal/fields"
)

// A quadratic step would take very long here, and a recursion the stack.
func TestLongFieldsTakeLinearTime(t *testing.T) {
	for _, pattern := range []string{`"`, `"a",`, `"a"b`, ",", "=", ";", " ", "\\", `W/"`, "a=(", "a;q=1,", "%", "+&", "&", "(", "-", "0", "5-,", "bytes=1-,", "\xE2\x82", `"\`, "a=b;", "GMT, "} {
		for _, prefix := range []string{"", `"`, "a=", `a="`, "bytes=", "params=(", "K"} {
			value := prefix + strings.Repeat(pattern, 50_000/len(pattern))
			values := []string{value}
			h := http.Header{"Accept": values, "X": values, "If-None-Match": values, "If-Modified-Since": values, "If-Range": values, "Etag": values, "Last-Modified": values}
			fields.ParseDate(value, now)
			d := fields.ParseCacheControl(values)
			d.Seconds("a")
			d.Fields("a")
			fields.ParseTargeted(values)
			fields.Members(values)
			fields.Selecting(h, "Accept", true)
			fields.Selecting(h, "X", true)
			fields.NotModified(h, h, now)
			fields.IfRange(h, h, now)
			fields.ParseRange(value, 1<<40)
			fields.Negotiate(values, values)
			fields.ParseGroups(values)
			n, _ := fields.ParseNoVarySearch(values)
			_ = n.String()
			n, _ = fields.ParseNoVarySearch([]string{"key-order"})
			n.Canonical(value)
		}
	}
}
