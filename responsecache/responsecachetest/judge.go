package responsecachetest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// slack is by how much a time that goes on may be off, in seconds.
const slack = 30

// judge returns what is wrong with the outcome of a step.
func (r *run) judge(st *step, got *response) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	r.mu.Lock()
	seen := slices.Clone(r.asked)
	r.mu.Unlock()
	if st.aborted {
		if got.err == nil && got.status < http.StatusInternalServerError {
			fault("the response is a complete %d, and its body is %.60q", got.status, got.body)
		}
		return faults
	}
	if got.err != nil {
		fault("there is no complete response: %v", got.err)
		return faults
	}
	r.judgeOrigin(st, seen, fault)
	if len(faults) > 0 {
		fault("the response is a %d with Cache-Status %q, and its body is %.60q", got.status, got.header.Values("Cache-Status"), got.body)
		return faults
	}
	r.judgeResponse(st, seen, got, fault)
	r.judgeStatus(st, len(seen) > 0 && st.origin != background, got, fault)
	for _, c := range st.checks {
		c(r.t, got)
	}
	if len(faults) > 0 {
		fault("the response is a %d, its header is %v, and its body is %.60q", got.status, got.header, got.body)
	}
	return faults
}

// judgeOrigin looks at whether the origin was asked, and for what.
func (r *run) judgeOrigin(st *step, seen []asked, fault func(string, ...any)) {
	allowed := st.origin == maybe || st.origin == background || st.polls
	switch {
	case st.origin == never && len(seen) > 0 && !allowed:
		fault("the origin was asked, by a request with %v", seen[0].header)
	case st.origin != never && st.origin != maybe && len(seen) == 0:
		fault("the origin was not asked")
	case len(seen) > max(1, len(st.answers)) && !allowed:
		fault("the origin was asked %d times", len(seen))
	}
	if len(seen) == 0 {
		return
	}
	for _, line := range r.expand(st.sees) {
		if why := mismatch(seen[0].header, line); why != "" {
			fault("what the origin was asked by: %s; the header was %v", why, seen[0].header)
		}
	}
}

// source returns the step and the index of the origin's answer that the response
// must be. If several have that body it is the one of its Date.
func (r *run) source(st *step, seen []asked, got *response) (step, index int) {
	asked := len(seen) > 0 && st.origin != background
	if len(st.sources) == 0 || asked && st.origin == maybe && st.answers[seen[len(seen)-1].index].status != http.StatusNotModified {
		if !asked || len(st.answers) == 0 {
			return -1, 0
		}
		return r.now, seen[len(seen)-1].index
	}
	step, index = st.sources[0]-1, 0
	found := false
	for _, n := range st.sources {
		for i := range r.steps[n-1].answers {
			if r.body(n-1, i) != got.body {
				continue
			}
			if first := r.got[n-1].header; first != nil && first.Get("Date") == got.header.Get("Date") {
				return n - 1, i
			}
			if !found {
				step, index, found = n-1, i, true
			}
		}
	}
	return step, index
}

func (r *run) judgeResponse(st *step, seen []asked, got *response, fault func(string, ...any)) {
	n, index := r.source(st, seen, got)
	if n >= 0 {
		r.judgeSource(st, n, index, got, fault)
	}
	if st.status != 0 && got.status != st.status {
		fault("the status is %d, want %d", got.status, st.status)
	}
	if st.body != nil && got.body != *st.body {
		fault("the body is %.60q, want %.60q", got.body, *st.body)
	}
	for _, line := range r.expand(st.has) {
		if why := mismatch(got.header, line); why != "" {
			fault("%s", why)
		}
	}
	if !slices.Equal(got.interims, st.interims) {
		fault("the informational responses are %v, want %v", got.interims, st.interims)
	}
	if st.age != nil {
		age, err := strconv.Atoi(got.header.Get("Age"))
		if err != nil || age < *st.age || age > *st.age+slack {
			fault("the age is %q, want %d", got.header.Get("Age"), *st.age)
		}
	}
}

// judgeSource compares the response to what the origin answered in step n.
func (r *run) judgeSource(st *step, n, index int, got *response, fault func(string, ...any)) {
	a := r.steps[n].answers[index]
	status := a.status
	if st.status != 0 {
		status = st.status
	}
	if st.freeCode {
		status = got.status
	}
	if st.status == 0 && !st.freeCode && got.status != a.status {
		fault("the status is %d, want %d", got.status, a.status)
	}
	want := r.body(n, index)
	if st.method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
		want = ""
	}
	if st.body == nil && !st.free && got.body != want {
		fault("the body is %.60q, want %.60q", got.body, want)
	}
	length := got.header.Get("Content-Length")
	if st.length && length != strconv.Itoa(len(r.body(n, index))) {
		fault("Content-Length is %q, want %d", length, len(r.body(n, index)))
	}
	if n != r.now {
		if r.updated(n) {
			return
		}
		first := r.got[n].header
		known := first != nil && r.steps[n].origin != background && status != http.StatusRequestedRangeNotSatisfiable
		if known && first.Get("Date") != got.header.Get("Date") {
			fault("Date is %q, want that of the stored response, %q", got.header.Get("Date"), first.Get("Date"))
		}
	}
	if st.free && st.freeCode {
		return
	}
	answered := parseLines(r.expand(a.fields))
	for name, wanted := range answered {
		if isOwn(name, answered) || hasName(st.has, name) || !isSent(status, name) {
			continue
		}
		all := values(got.header, name)
		switch {
		case strings.EqualFold(name, "ETag") && len(values(answered, "Content-Encoding")) < len(got.header.Values("Content-Encoding")):
			continue // the cache has put it into a coding, which has an ETag of its own
		case strings.EqualFold(name, "Vary"): // the policy may have added to it
			all = slices.DeleteFunc(tokens(all), func(token string) bool { return !slices.Contains(tokens(wanted), token) })
			wanted = tokens(wanted)
		}
		if !slices.Equal(all, wanted) {
			fault("%s is %q, want %q", name, all, wanted)
		}
	}
}

// updated reports that something since step n may have changed the header of what
// was stored then.
func (r *run) updated(n int) bool {
	return slices.ContainsFunc(r.steps[n+1:r.now+1], func(st *step) bool {
		return slices.ContainsFunc(st.answers, func(a answer) bool { return a.status == http.StatusNotModified }) || st.method == http.MethodHead && st.origin != never
	})
}

// isOwn reports fields that are not passed on as they are: those of one
// connection or delivery, and those that are for this cache.
func isOwn(name string, answered http.Header) bool {
	for _, listed := range values(answered, "Connection") {
		if strings.EqualFold(name, listed) {
			return true
		}
	}
	return slices.ContainsFunc([]string{
		"Age", "Cache-Status", "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length",
		"Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Herdless-Cache-Control", "Surrogate-Key", "Cache-Tag",
	}, func(own string) bool { return strings.EqualFold(own, name) })
}

func tokens(lines []string) []string {
	var list []string
	for token := range strings.SplitSeq(strings.ToLower(strings.Join(lines, ",")), ",") {
		if token = strings.TrimSpace(token); token != "" {
			list = append(list, token)
		}
	}
	return list
}

// isSent reports fields that a response of that status must have if the 200 would.
func isSent(status int, name string) bool {
	if status != http.StatusNotModified && status != http.StatusPartialContent && status != http.StatusRequestedRangeNotSatisfiable {
		return true
	}
	return slices.ContainsFunc([]string{"Content-Location", "Date", "ETag", "Vary", "Cache-Control", "Expires"}, func(kept string) bool {
		return status != http.StatusRequestedRangeNotSatisfiable && strings.EqualFold(kept, name)
	})
}

// mismatch says what is wrong with a field, by a line.
func mismatch(h http.Header, line string) string {
	line, not := strings.CutPrefix(line, "!")
	name, want, valued := strings.Cut(line, ": ")
	all := values(h, name)
	switch {
	case not && valued && (len(all) == 0 || strings.Join(all, ", ") == want):
		return fmt.Sprintf("%s is %q, and must be something else", name, all)
	case not && !valued && len(all) > 0:
		return fmt.Sprintf("%s is %q, and must not be there", name, all)
	case not:
		return ""
	}
	if want == "*" && len(all) > 0 || strings.Join(all, ", ") == want {
		return ""
	}
	return fmt.Sprintf("%s is %q, want %q", name, all, want)
}
