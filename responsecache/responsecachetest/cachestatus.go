package responsecachetest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"
)

// cacheName is how the cache calls itself.
const cacheName = "herdless"

// reasons are the values of the fwd parameter (RFC 9211 §2.2).
var reasons = []string{"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}

// judgeStatus looks at what Cache-Status says of this cache.
func (r *run) judgeStatus(st *step, forwarded bool, got *response, fault func(string, ...any)) {
	member, err := lastMember(got.header)
	if err != nil {
		if st.origin != never || len(st.sources) > 0 { // else the cache made it up
			fault("Cache-Status: %v", err)
		}
		return
	}
	hit, isHit := member.Params.Get("hit")
	fwd, isForwarded := member.Params.Get("fwd")
	reason, isToken := fwd.(httpsfv.Token)
	switch {
	case isHit && isForwarded:
		fault("Cache-Status has both hit and fwd")
	case isHit && hit != true:
		fault("Cache-Status has hit=%v", hit)
	case isForwarded && (!isToken || !slices.Contains(reasons, string(reason))):
		fault("Cache-Status has fwd=%v, which is not a reason", fwd)
	case isHit && forwarded && len(st.sources) == 0:
		fault("Cache-Status says hit, though the origin answered")
	case !forwarded && st.origin != once && len(st.sources) > 0 && !isHit:
		fault("Cache-Status is %q, and does not say hit", got.header.Values("Cache-Status"))
	}
	if isHit && got.header.Get("Age") == "" && got.status != http.StatusRequestedRangeNotSatisfiable {
		fault("a response from the store has no Age")
	}
	for want := range strings.SplitSeq(st.reports, "; ") {
		if why := wrongParam(member.Params, want); want != "" && why != "" {
			fault("Cache-Status is %q: %s", got.header.Values("Cache-Status"), why)
		}
	}
}

// lastMember is what Cache-Status says of the cache that is closest to the client
// (RFC 9211 §2).
func lastMember(h http.Header) (httpsfv.Item, error) {
	list, err := httpsfv.UnmarshalList(h.Values("Cache-Status"))
	if err != nil {
		return httpsfv.Item{}, fmt.Errorf("%q is not a List: %w", h.Values("Cache-Status"), err)
	}
	if len(list) == 0 {
		return httpsfv.Item{}, fmt.Errorf("%q has no members", h.Values("Cache-Status"))
	}
	item, ok := list[len(list)-1].(httpsfv.Item)
	if !ok || item.Value != httpsfv.Token(cacheName) && item.Value != cacheName {
		return httpsfv.Item{}, fmt.Errorf("the last member of %q is not %s", h.Values("Cache-Status"), cacheName)
	}
	return item, nil
}

// wrongParam says what is wrong with a parameter, by one as it should be. A ttl
// may have gone down since.
func wrongParam(p *httpsfv.Params, want string) string {
	if name, absent := strings.CutPrefix(want, "!"); absent {
		if value, ok := p.Get(name); ok && value != false {
			return name + " must not be there"
		}
		return ""
	}
	name, text, _ := strings.Cut(want, "=")
	value, ok := p.Get(name)
	switch {
	case !ok:
		return name + " is missing"
	case name == "ttl":
		ttl, isInteger := value.(int64)
		if wanted, err := strconv.ParseInt(text, 10, 64); err != nil || !isInteger || ttl > wanted || ttl < wanted-slack {
			return "want ttl=" + text
		}
	case name == "key":
		if _, isString := value.(string); !isString {
			return "key is not a String"
		}
	case text == "" && value != true, text != "" && fmt.Sprint(value) != text:
		return "want " + want
	}
	return ""
}
