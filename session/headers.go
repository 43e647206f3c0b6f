package session

import (
	"net/http"
	"strings"
)

// MarkResponse marks a response that depends on s as one user's own, if s was
// used at all, read or written; Handler and Commit do it by themselves. It adds
// Cache-Control: private and Vary: Cookie (or the field of Options.Header), and
// takes away what would contradict: the
// directives public, s-maxage and proxy-revalidate (RFC 9111, section 5.2.2), a
// private that covers some fields only, and fields that speak to shared caches
// alone (RFC 9213: CDN-Cache-Control and its kin; Surrogate-Control). A
// no-store is stricter than private and stands in for it.
func (s *Session) MarkResponse(h http.Header) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark(h)
}

func (s *Session) mark(h http.Header) {
	if !s.touched {
		return
	}
	for name := range h {
		switch {
		case strings.HasSuffix(name, "Cdn-Cache-Control"), name == "Surrogate-Control", name == "X-Accel-Expires", name == "Edge-Control":
			delete(h, name)
		}
	}
	s.markCacheControl(h)
	vary := s.m.transport.vary()
	for _, v := range splitList(h.Values("Vary")) {
		if v == "*" || strings.EqualFold(v, vary) {
			return
		}
	}
	if len(h["Vary"]) > 0 {
		h.Add("Vary", vary)
		return
	}
	h["Vary"] = s.line(1, vary)
}

// line returns the lines of a field that has one, the first time in memory of its own.
func (s *Session) line(i int, value string) []string {
	if s.fields[i] != "" {
		return []string{value} // what it is in already may have been changed by others
	}
	s.fields[i] = value
	return s.fields[i : i+1 : i+1]
}

func (s *Session) markCacheControl(h http.Header) {
	lines := h["Cache-Control"]
	if len(lines) == 0 {
		h["Cache-Control"] = s.line(0, "private")
		return
	}
	noStore, kept := false, []string{}
	for _, d := range splitList(lines) {
		name, _, _ := strings.Cut(d, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "public", "s-maxage", "proxy-revalidate", "private":
			continue
		case "no-store":
			noStore = true
		}
		kept = append(kept, d)
	}
	if !noStore {
		// In front, so that whatever is odd behind it cannot hide it.
		kept = append([]string{"private"}, kept...)
	}
	h.Set("Cache-Control", strings.Join(kept, ", "))
}

// splitList splits the lines of a list field into its elements. A comma within
// quotes does not separate (RFC 9110, section 5.6.1).
func splitList(lines []string) (elements []string) {
	for _, line := range lines {
		start, quoted := 0, false
		for i := 0; i <= len(line); i++ {
			switch {
			case i == len(line) || line[i] == ',' && !quoted:
				if e := strings.TrimSpace(line[start:i]); e != "" {
					elements = append(elements, e)
				}
				start = i + 1
			case line[i] == '"':
				quoted = !quoted
			case line[i] == '\\' && quoted && i+1 < len(line):
				i++
			}
		}
	}
	return elements
}
