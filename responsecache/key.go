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
	scheme, host, path, query string
	rewritten                 string // what middleware has made of it
	extra                     string // of Policy.Key, with a "+" in front
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
	name := nameOfURL(scheme, r.Host, r.URL)
	target, err := url.ParseRequestURI(r.RequestURI)
	if err == nil { // else it is not from a server
		asked := nameOfURL(scheme, r.Host, target)
		if asked != name && (asked.query != name.query || !strings.HasSuffix(asked.path, name.path)) {
			asked.rewritten = joinParts(name.path, name.query)
		}
		name = asked
	}
	if extra != nil {
		name.extra = "+" + extra(r)
	}
	return name
}

func nameOfURL(scheme, host string, u *url.URL) pageName {
	name := pageName{scheme: scheme, host: hostKey(scheme, host), path: u.EscapedPath()}
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

// short is what a key looks like in Cache-Status.
func short(key string) string { return strconv.FormatUint(xxhash.Sum64String(key), 16) }

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
	size := 0
	for _, part := range parts {
		size += len(part) + 5
	}
	b := make([]byte, 0, size)
	for _, part := range parts {
		b = strconv.AppendInt(b, int64(len(part)), 10)
		b = append(b, ':')
		b = append(b, part...)
		b = append(b, ',')
	}
	return string(b)
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
