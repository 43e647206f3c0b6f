package responsecache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// pageName is what names a page, whoever asks for it (RFC 9111 §2). Method override
// fields, X-Forwarded-Host and the like have no part in it.
type pageName struct {
	pathName
	query string
}

// pathName names the pages of one path that differ in their queries.
type pathName struct {
	scheme, host, path string
	rewritten          string // what middleware has made of path and query
	extra              string // of Policy.Key, with a "+" in front
}

// kept returns the name for keeping, without the rest of the request that its parts
// are parts of.
func (n pathName) kept() pathName {
	return pathName{n.scheme, strings.Clone(n.host), strings.Clone(n.path), strings.Clone(n.rewritten), strings.Clone(n.extra)}
}

// nameOf returns the name of the page that is asked for.
//
// Middleware may have changed r.URL on the way. If it took a prefix away, the
// request's target names the page; if it did something else, the two together.
func nameOf(r *http.Request, extra func(*http.Request) string) pageName {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	var name pageName
	if isPlain(r) {
		path, query := r.RequestURI[:len(r.URL.Path)], r.RequestURI[len(r.URL.Path):]
		name = pageName{pathName{scheme: scheme, host: hostKey(scheme, r.Host), path: path}, query}
	} else {
		name = nameOfURL(scheme, r.Host, r.URL)
		target, err := url.ParseRequestURI(r.RequestURI)
		if err == nil { // else it is not from a server
			asked := nameOfURL(scheme, r.Host, target)
			if asked != name && (asked.query != name.query || !strings.HasSuffix(asked.path, name.path)) {
				asked.rewritten = joinParts(name.path, name.query)
			}
			name = asked
		}
	}
	if extra != nil {
		name.extra = "+" + extra(r)
	}
	return name
}

// isPlain reports a request whose target is its URL's path as it is, with the query
// after it: nobody has changed the URL, and there is nothing to decode or encode.
func isPlain(r *http.Request) bool {
	u, target := r.URL, r.RequestURI
	if u.RawPath != "" || u.Path == "" || u.Path[0] != '/' || !strings.HasPrefix(target, u.Path) {
		return false
	}
	for i := range len(u.Path) {
		if !plainBytes[u.Path[i]] {
			return false
		}
	}
	query := target[len(u.Path):]
	if query == "" {
		return u.RawQuery == "" && !u.ForceQuery
	}
	return query[0] == '?' && query[1:] == u.RawQuery && u.ForceQuery == (u.RawQuery == "")
}

// plainBytes are those that stand for themselves in every path (RFC 3986 §2.3), and
// the slash.
var plainBytes = func() (plain [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/") {
		plain[c] = true
	}
	return plain
}()

func nameOfURL(scheme, host string, u *url.URL) pageName {
	name := pageName{pathName: pathName{scheme: scheme, host: hostKey(scheme, host), path: u.EscapedPath()}}
	if u.RawQuery != "" || u.ForceQuery {
		name.query = "?" + u.RawQuery
	}
	return name
}

// hostKey returns the host in one form (RFC 9110 §4.2.3).
func hostKey(scheme, host string) string {
	host = strings.ToLower(host)
	if scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// key is the primary cache key. GET stands for the method, HEAD's included: no
// other one is stored.
func (n *pageName) key() string {
	return bounded(joinParts("page", http.MethodGet, n.scheme, n.host, n.path, n.query, n.rewritten, n.extra))
}

// keyUnder is the key of all pages that are the same under a No-Vary-Search rule.
func (n *pageName) keyUnder(r rule) string {
	query := r.canonical(strings.TrimPrefix(n.query, "?"))
	return bounded(joinParts("search", http.MethodGet, n.scheme, n.host, n.path, r.text, query, n.rewritten, n.extra))
}

// ruleKey is where the rule of a path is found.
func (n *pageName) ruleKey() string {
	return bounded(joinParts("rule", n.scheme, n.host, n.path, n.rewritten, n.extra))
}

// origin is what groups and invalidation are bounded by.
func (n *pageName) origin() string { return n.scheme + "://" + n.host }

// tag is one that all responses under this URL have, if they need one.
func (n *pageName) tag() string { return joinParts("url", digest(n.scheme, n.host, n.path, n.query)) }

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(joinParts(parts...)))
	return hex.EncodeToString(sum[:16])
}

// short is what stands for a key in Cache-Status, in hexadecimal digits.
func short(key string) uint64 { return xxhash.Sum64String(key) }

// maxKey is the length up to which a key is what it stands for, and else a digest.
const maxKey = 1 << 10

func bounded(key string) string {
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return joinParts("long", hex.EncodeToString(sum[:]))
}

// joinParts joins parts that are each preceded by their length, so that no two
// different lists can become the same.
func joinParts(parts ...string) string {
	var buf [256]byte
	b := buf[:0]
	for _, part := range parts {
		b = appendPart(b, part)
	}
	return string(b)
}

func appendPart(b []byte, part string) []byte {
	if n := len(part); n < 10 {
		b = append(b, byte('0'+n), ':')
	} else {
		b = append(strconv.AppendInt(b, int64(n), 10), ':')
	}
	b = append(b, part...)
	return append(b, ',')
}

// parsePage reads an absolute URL as a client would request it.
func parsePage(rawURL string) (pageName, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return pageName{}, fmt.Errorf("responsecache: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return pageName{}, fmt.Errorf("responsecache: %q is not an absolute http or https URL, such as https://example.com/page", rawURL)
	}
	if u.Path == "" {
		u.Path = "/" // as every client asks for it
	}
	return nameOfURL(u.Scheme, u.Host, u), nil
}

// variantKey is the key of one variant of a page: of the generation of variants that
// index began, for the digest of what selects it.
func variantKey(page string, index varyIndex, selected string) string {
	return bounded(joinParts("variant", page, index.generation, selected))
}

// selects returns a digest of the values that a request has in the index's fields.
// They are not there as they are, because they may be secret, and long.
func (index varyIndex) selects(h http.Header, anyForm bool) string {
	var values []string
	for _, name := range index.names {
		value, present := fields.Selecting(h, name, anyForm)
		if present {
			value = "+" + value
		}
		values = append(values, name, value)
	}
	return digest(values...)
}
