package responsecache

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// pageKey is the primary cache key of a request (RFC 9111 §2): what names the
// page, whoever asks for it. Method override fields and the like have no part
// in it.
func pageKey(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return urlKey(scheme, r.Host, r.URL)
}

// urlKey builds the key from parts that are each preceded by their length, so
// that no two different pages can have the same one.
func urlKey(scheme, host string, u *url.URL) string {
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	query := u.RawQuery
	if query != "" || u.ForceQuery {
		query = "?" + query
	}
	return joinParts("page", scheme, strings.ToLower(host), path, query)
}

// variantKey is the key of one variant of a page: of the generation of variants
// that index began, for the values that the request has in the index's fields.
func variantKey(page string, index varyIndex, h http.Header) string {
	parts := []string{"variant", page, index.generation}
	for _, name := range index.names {
		parts = append(parts, name, fieldValue(h, name))
	}
	return joinParts(parts...)
}

// fieldValue returns the members of a request field in one form, whatever the
// white space and the number of lines they came in (RFC 9111 §4.1).
func fieldValue(h http.Header, name string) string {
	values := h.Values(name)
	if len(values) == 0 {
		return "-" // absent is not the same as empty
	}
	var members []string
	for member := range strings.SplitSeq(strings.Join(values, ","), ",") {
		members = append(members, strings.Join(strings.Fields(member), " "))
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
	return urlKey(u.Scheme, u.Host, u), nil
}
