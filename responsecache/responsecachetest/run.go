package responsecachetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long to wait for what must come.
const patience = 5 * time.Second

// run is one scenario on its way.
type run struct {
	t       *testing.T
	server  *server
	id      string
	steps   []*step
	began   time.Time
	entered atomic.Int64 // requests that have come to the server

	mu       sync.Mutex
	now      int // index of the step that is under way
	asked    []asked
	answered chan struct{} // closed by the first answer of the origin in a step
	gate     chan struct{} // holds back the answers of a step with many requests
	got      []*response   // by step
}

// asked is a request that the origin got.
type asked struct {
	header http.Header
	index  int // of the answer
}

func newRun(t *testing.T, s *server, steps []*step) *run {
	r := &run{t: t, server: s, id: strings.ToLower(rand.Text()), steps: steps, began: time.Now()}
	s.add(r.id, r)
	t.Cleanup(func() { s.add(r.id, nil) })
	return r
}

func (r *run) all() {
	for i, st := range r.steps {
		r.mu.Lock()
		r.now, r.asked, r.answered = i, nil, make(chan struct{})
		r.got = append(r.got, nil)
		r.mu.Unlock()
		if faults := r.step(st); len(faults) > 0 {
			r.t.Fatalf("step %d of %d, %s:\n  %s", i+1, len(r.steps), r.describe(st), strings.Join(faults, "\n  "))
		}
	}
}

// step does one step, and returns what is wrong with the outcome.
func (r *run) step(st *step) (faults []string) {
	deadline := time.Now().Add(patience)
	for {
		if st.times > 1 {
			return r.atOnce(st)
		}
		got := r.request(st)
		faults = r.judge(st, got)
		if len(faults) == 0 || !st.polls || time.Now().After(deadline) {
			return faults
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *run) request(st *step) *response {
	url := r.server.URL + r.path() + st.suffix
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	got := r.server.do(ctx, st, url, r.expand(st.request))
	r.mu.Lock()
	r.got[r.now] = got
	r.mu.Unlock()
	// Which of several requests has a stale response made anew is the cache's
	// business.
	for st.origin == background && ctx.Err() == nil {
		select {
		case <-r.answered:
			return got
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			r.server.do(ctx, st, url, r.expand(st.request))
		}
	}
	return got
}

// atOnce sends the requests of a step together, and lets the origin answer when
// all are there.
func (r *run) atOnce(st *step) []string {
	gate := make(chan struct{})
	r.mu.Lock()
	r.gate = gate
	r.mu.Unlock()
	r.entered.Store(0)
	all := make(chan *response, st.times)
	for range st.times {
		go func() {
			all <- r.server.do(r.t.Context(), st, r.server.URL+r.path()+st.suffix, r.expand(st.request))
		}()
	}
	for deadline := time.Now().Add(patience); r.entered.Load() < int64(st.times) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	// They are in the server, though not yet certain to wait for one another.
	// Those who come late are hits.
	time.Sleep(20 * time.Millisecond)
	close(gate)
	var faults []string
	bodies := map[string]int{}
	for range st.times {
		got := <-all
		if got.err != nil {
			faults = append(faults, got.err.Error())
		}
		bodies[got.body]++
		for _, c := range st.checks {
			c(r.t, got)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate, r.got[r.now] = nil, &response{}
	switch {
	case st.origin == once && (len(r.asked) != 1 || len(bodies) != 1):
		faults = append(faults, fmt.Sprintf("%d requests ran the origin %d times, and got %d different bodies, not one", st.times, len(r.asked), len(bodies)))
	case st.origin == maybe && len(bodies) != st.times:
		faults = append(faults, fmt.Sprintf("%d requests got %d different bodies, not each its own", st.times, len(bodies)))
	}
	return faults
}

func (r *run) path() string { return "/" + r.id }

func (r *run) expand(lines []string) []string {
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, "{") }) {
		return lines
	}
	names := []string{"{path}", r.path(), "{id}", r.id, "{origin}", r.server.URL, "{host}", r.server.Listener.Addr().String()}
	r.mu.Lock()
	for i, got := range r.got {
		if got != nil {
			names = append(names, fmt.Sprintf("{etag %d}", i+1), got.header.Get("ETag"))
		}
	}
	r.mu.Unlock()
	expand := strings.NewReplacer(names...)
	expanded := make([]string, len(lines))
	for i, line := range lines {
		expanded[i] = dates.ReplaceAllStringFunc(expand.Replace(line), func(date string) string {
			var seconds int
			_, _ = fmt.Sscanf(date, dateMark, &seconds)
			return r.began.Add(time.Duration(seconds) * time.Second).UTC().Format(http.TimeFormat)
		})
	}
	return expanded
}

func (r *run) describe(st *step) string {
	return strings.Join(append([]string{st.method + " " + r.path() + st.suffix}, r.expand(st.request)...), " | ")
}

// serve is the origin.
func (r *run) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	now := r.now
	n, st := now, r.steps[now]
	a := asked{header: req.Header.Clone(), index: min(len(r.asked), len(st.answers)-1)}
	r.asked = append(r.asked, a)
	if st.origin == never && n > 0 && r.steps[n-1].origin == background {
		// A stale response that is met again may be made anew again.
		st, n = r.steps[n-1], n-1
		a.index = len(st.answers) - 1
	}
	times, gate, answered := len(r.asked), r.gate, r.answered
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	_, _ = io.Copy(io.Discard, req.Body)
	if a.index < 0 {
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "this request must not come to the origin", http.StatusInternalServerError)
		return
	}
	if times == 1 && n == now {
		defer close(answered)
	}
	body := r.body(n, a.index)
	if st.times > 1 {
		body = fmt.Sprintf("%s, time %d", body, times)
	}
	st.answers[a.index].write(w, req, r.expand(st.answers[a.index].fields), body)
}

// body is that of an answer of the origin.
func (r *run) body(step, index int) string {
	a := r.steps[step].answers[index]
	switch {
	case a.body != nil:
		return *a.body
	case index > 0:
		return fmt.Sprintf("body %d.%d", step+1, index+1)
	}
	return fmt.Sprintf("body %d", step+1)
}

func (a *answer) write(w http.ResponseWriter, req *http.Request, fields []string, body string) {
	if a.end == panics {
		panic("the origin fails")
	}
	if a.early != nil {
		for name, values := range parseLines(a.early) {
			w.Header()[name] = values
		}
		w.WriteHeader(http.StatusEarlyHints)
		for name := range parseLines(a.early) {
			delete(w.Header(), name)
		}
	}
	for name, values := range parseLines(fields) {
		w.Header()[name] = values
	}
	if a.end == breaks {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		body = body[:len(body)/2]
	}
	if len(values(w.Header(), "Content-Type")) == 0 {
		w.Header().Set("Content-Type", "text/plain")
	}
	empty := req.Method == http.MethodHead || a.status == http.StatusNoContent || a.status == http.StatusNotModified
	if req.Method == http.MethodHead && len(values(w.Header(), "Content-Length")) == 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(a.status)
	if empty {
		return
	}
	_, _ = io.WriteString(w, body)
	switch a.end {
	case breaks:
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case trails:
		w.Header().Set("X-Trailer", "behind the body")
	case complete, panics:
	}
}
