package responsecache

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/cache"
)

// addStatus adds this cache's member to the response's Cache-Status field (RFC
// 9211 §2).
func (x *exchange) addStatus(params string) {
	x.w.Header().Add("Cache-Status", x.route.cache.name+"; "+params)
}

// hit says that the response came from the store, and how long it stays fresh.
func hit(e cache.Entry) string { return "hit; ttl=" + seconds(e.TTL) }

// fwd says that the request went on to the handler, and why.
func fwd(why string) string { return "fwd=" + why }

func seconds(d time.Duration) string { return decimal(int(d / time.Second)) }

func decimal(n int) string { return strconv.Itoa(n) }

var sfToken = regexp.MustCompile("^[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*$")

// bareItem returns s as a token where it is one, else as a string (RFC 9651
// §3.3.3 and 3.3.4).
func bareItem(s string) string {
	if sfToken.MatchString(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
