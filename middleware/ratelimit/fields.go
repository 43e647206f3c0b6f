package ratelimit

import (
	"net/http"
	"strconv"
	"time"
)

// Field names as http.Header has them.
const (
	policyHeader  = "Ratelimit-Policy"
	standsHeader  = "Ratelimit"
	retryHeader   = "Retry-After"
	xLimit        = "X-Ratelimit-Limit"
	xRemaining    = "X-Ratelimit-Remaining"
	xReset        = "X-Ratelimit-Reset"
	maxSFInteger  = 999_999_999_999_999 // RFC 9651, section 3.3.1
	concurrentQty = `;qu="concurrent-requests"`
)

// policyField returns what RateLimit-Policy says of the limits
// (draft-ietf-httpapi-ratelimit-headers). The quota is what can be taken at once, and
// the window the time in which as much comes back.
func policyField(limits []*namedLimit) string {
	var b []byte
	for _, l := range limits {
		if l.shadow {
			continue
		}
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, l.quoted...)
		b = append(b, ";q="...)
		b = appendInteger(b, int64(l.burst()))
		// There is no window of less than a second.
		b = append(b, ";w="...)
		b = appendInteger(b, max(1, seconds(l.window())))
	}
	return string(b)
}

func appendInteger(b []byte, n int64) []byte { return strconv.AppendInt(b, min(n, maxSFInteger), 10) }

// seconds returns d in seconds, rounded up: who waits so long, and no whole second less,
// has waited for d.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// setFields tells the client how the limits stand. It adds, because a route may be
// inside of several limiters.
func (c *core) setFields(h http.Header, asks []ask, r *Result) {
	if !c.options.HideFields {
		for _, a := range asks {
			if a.plan.field != "" {
				h[policyHeader] = append(h[policyHeader], a.plan.field)
			}
		}
		var buf [128]byte
		b := buf[:0]
		for i := range r.Limits {
			s := &r.Limits[i]
			if s.Shadow || !s.Known {
				continue
			}
			if len(b) > 0 {
				b = append(b, ", "...)
			}
			b = append(b, '"')
			b = append(b, s.Name...) // holds nothing that would have to be escaped
			b = append(b, `";r=`...)
			b = appendInteger(b, int64(s.Remaining))
			if s.NextAfter > 0 {
				b = append(b, ";t="...)
				b = appendInteger(b, seconds(s.NextAfter))
			}
		}
		if len(b) > 0 {
			h[standsHeader] = append(h[standsHeader], string(b))
		}
	}
	if c.options.XRateLimit {
		setXFields(h, r)
	}
}

// setXFields sets the fields that many APIs have, of the limit of which the least is
// left.
func setXFields(h http.Header, r *Result) {
	var least *Standing
	for i := range r.Limits {
		if s := &r.Limits[i]; s.Known && !s.Shadow && (least == nil || s.Remaining < least.Remaining) {
			least = s
		}
	}
	if least == nil {
		return
	}
	h[xLimit] = []string{strconv.Itoa(least.Limit.burst())}
	h[xRemaining] = []string{strconv.Itoa(least.Remaining)}
	h[xReset] = []string{strconv.FormatInt(seconds(least.ResetAfter), 10)}
}

// setRetryAfter sets the seconds after which the request passes, rounded up (RFC
// 9110, section 10.2.3), unless it never does.
func setRetryAfter(h http.Header, wait time.Duration) {
	if wait >= 0 {
		h[retryHeader] = []string{strconv.FormatInt(max(1, seconds(wait)), 10)}
	}
}
