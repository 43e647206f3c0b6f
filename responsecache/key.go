package responsecache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// pageKey is the primary cache key of a request (RFC 9111 §2): what names the
// page, whoever asks for it. Method override fields and the like have no part
// in it.
//
// Middleware may have changed r.URL on the way. If it took a prefix away, the
// request's target names the page; if it did something else, the two together.
func pageKey(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	key := urlKey(scheme, r.Host, r.URL)
	target, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		return key // not from a server
	}
	targetKey := urlKey(scheme, r.Host, target)
	switch {
	case targetKey == key:
		return key
	case target.RawQuery == r.URL.RawQuery && strings.HasSuffix(target.EscapedPath(), r.URL.EscapedPath()):
		return targetKey
	}
	return joinParts("rewritten", targetKey, key)
}

// urlKey builds the key from parts that are each preceded by their length, so
// that no two different pages can have the same one.
func urlKey(scheme, host string, u *url.URL) string {
	path := u.EscapedPath() // may be empty, which a handler may treat otherwise than "/"
	query := u.RawQuery
	if query != "" || u.ForceQuery {
		query = "?" + query
	}
	return joinParts("page", scheme, strings.ToLower(host), path, query)
}

// variantKey is the key of one variant of a page: of the generation of variants
// that index began, for the values that the request has in the index's fields.
// They are there as a digest, because they may be secret, and long.
func variantKey(page string, index varyIndex, h http.Header) string {
	var values []string
	for _, name := range index.names {
		values = append(values, name, fieldValue(h, name))
	}
	digest := sha256.Sum256([]byte(joinParts(values...)))
	return joinParts("variant", page, index.generation, hex.EncodeToString(digest[:]))
}

// fieldValue returns the members of a request field in one form, whatever the
// white space around them and the number of lines they came in (RFC 9111 §4.1).
// A value with a quoted string stays as it is.
func fieldValue(h http.Header, name string) string {
	values := h.Values(name)
	if len(values) == 0 {
		return "-" // absent is not the same as empty
	}
	value := strings.Join(values, ",")
	if strings.Contains(value, `"`) {
		return "+" + value
	}
	var members []string
	for member := range strings.SplitSeq(value, ",") {
		members = append(members, strings.Trim(member, " \t"))
	}
	return "+" + strings.Join(members, ",")
}

func joinParts(parts ...string) string {
	var b strings.Builder
	for _, part := range parts {
		fmt.Fprintf(&b, "%d:%s,", len(part), part)
	}
	return b.String()
}

// parsePage reads an absolute URL as a client would request it.
func parsePage(rawURL string) (key string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("responsecache: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", fmt.Errorf("responsecache: %q is not an absolute http or https URL, such as https://example.com/page", rawURL)
	}
	if u.Path == "" {
		u.Path = "/" // as every client asks for it
	}
	return urlKey(u.Scheme, u.Host, u), nil
}
