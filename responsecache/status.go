package responsecache

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// status is what Cache-Status says of one response (RFC 9211 §2).
type status struct {
	hit       bool
	fwd       string // why the request went to the handler
	fwdStatus int    // what that answered, if the client gets something else
	ttl       time.Duration
	hasTTL    bool
	stored    bool
	collapsed bool
	detail    string // a token
}

func hit(ttl time.Duration) status { return status{hit: true, ttl: ttl, hasTTL: true} }

const cacheStatus = "Cache-Status"

// addStatus adds this cache's member to the response's Cache-Status field.
func (x *exchange) addStatus(st status) {
	h := x.w.Header()
	h[cacheStatus] = append(h[cacheStatus], x.member(st))
}

// member returns this cache's member of Cache-Status.
func (a *asked) member(st status) string {
	var buf [128]byte
	b := append(buf[:0], a.cache.name...)
	if st.hit {
		b = append(b, "; hit"...)
	}
	if st.fwd != "" {
		b = append(append(b, "; fwd="...), st.fwd...)
	}
	if st.fwdStatus != 0 {
		b = strconv.AppendInt(append(b, "; fwd-status="...), int64(st.fwdStatus), 10)
	}
	if st.hasTTL {
		b = strconv.AppendInt(append(b, "; ttl="...), int64(st.ttl/time.Second), 10)
	}
	if st.stored {
		b = append(b, "; stored"...)
	}
	if st.collapsed {
		b = append(b, "; collapsed"...)
	}
	if a.page != "" {
		b = append(strconv.AppendUint(append(b, `; key="`...), short(a.page), 16), '"')
	}
	if st.detail != "" {
		b = append(append(b, "; detail="...), st.detail...)
	}
	return string(b)
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

var sfToken = regexp.MustCompile("^[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*$")

// bareItem returns s as a token where it is one, else as a string (RFC 9651
// §3.3.3 and 3.3.4).
func bareItem(s string) string {
	if sfToken.MatchString(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// takeOff removes what is for this cache alone from a response on its way out.
func (c *Cache) takeOff(h http.Header) {
	for name := range h {
		if c.isOwn(http.CanonicalHeaderKey(name)) {
			delete(h, name)
		}
	}
}

// isOwn reports a field that is for this cache alone, given by its canonical name.
func (c *Cache) isOwn(name string) bool {
	return name == c.targets[0] || name == surrogateKey || name == cacheTag || name == addedTags
}
