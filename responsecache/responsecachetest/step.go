package responsecachetest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// step is one request, what the origin answers if it is asked, and what must
// come of it. Steps are counted from 1.
//
// A field is written as a line: "Name: value". In the lines of a scenario {path}
// stands for its path, {origin} for the server, {host} for its Host, {id} for a word
// that no other scenario has, {etag 1} for the ETag of the response of step 1, and
// {date -60} for a minute before the scenario began.
type step struct {
	method  string
	suffix  string   // of the path
	request []string // lines
	content string   // of the request
	times   int      // how many at once

	origin   originMode
	answers  []answer // of the origin, in turn; the last one is repeated
	sees     []string // what the origin must see; "!Name" for what it must not
	sources  []int    // steps whose origin answers may be served, if the origin is not asked
	polls    bool     // repeat it until it holds
	aborted  bool     // no complete response but of an error
	status   int      // 0: that of the answer
	body     *string  // nil: that of the answer
	has      []string // fields of the response; "!Name" for those it must not have
	reports  string   // parameters of this cache's member of Cache-Status
	age      *int     // in seconds
	length   bool     // Content-Length must be that of the source's body
	checks   []check
	free     bool  // any body will do
	freeCode bool  // any status will do
	interims []int // informational responses that come before
}

// check is something about the response that is not written as a line.
type check func(t *testing.T, r *response)

type originMode int

const (
	never originMode = iota
	once
	maybe
	background // after the response
)

// answer is one response of the origin.
type answer struct {
	status int
	early  []string // fields of a 103 before it
	fields []string
	body   *string // nil: one that no other answer has
	end    ending
}

type ending int

const (
	complete ending = iota
	panics          // before the header
	breaks          // in the middle of the body
	trails          // with a trailer
)

func flow(steps ...*step) []*step { return steps }

func get(lines ...string) *step { return ask(http.MethodGet, lines...) }

func ask(method string, lines ...string) *step {
	return &step{method: method, request: lines, times: 1}
}

// at changes the URL: the suffix comes behind the scenario's path.
func (s *step) at(suffix string) *step {
	s.suffix = suffix
	return s
}

func (s *step) sends(content string) *step {
	s.content = content
	return s
}

// atOnce sends the request n times. Only once does the origin answer before all
// have come.
func (s *step) atOnce(n int) *step {
	s.times = n
	return s
}

// answer says that the origin must be asked, exactly once, and answers so.
func (s *step) answer(status int, lines ...string) *step {
	s.origin, s.answers = once, append(s.answers, answer{status: status, fields: lines})
	return s
}

// fails says that the origin must be asked, and panics.
func (s *step) fails() *step {
	s.origin, s.answers = once, append(s.answers, answer{end: panics})
	return s
}

// may says that the origin may be asked, and answers so; it need not if the answer
// of one of the given steps is served.
func (s *step) may(sources []int, status int, lines ...string) *step {
	s.answer(status, lines...).origin = maybe
	s.sources = sources
	return s
}

func steps(n ...int) []int { return n }

// retried says that the origin may be asked a second time, and answers so then.
func (s *step) retried(status int, lines ...string) *step {
	s.answers = append(s.answers, answer{status: status, fields: lines})
	return s
}

// refreshed says that the origin must be asked in the background.
func (s *step) refreshed(status int, lines ...string) *step {
	s.answer(status, lines...).origin = background
	return s
}

func (s *step) last() *answer { return &s.answers[len(s.answers)-1] }

// with is the body of the origin's answer.
func (s *step) with(body string) *step {
	s.last().body = &body
	return s
}

// early sends a 103 before the origin's answer.
func (s *step) early(lines ...string) *step {
	s.last().early = lines
	s.interims = []int{http.StatusEarlyHints}
	return s
}

func (s *step) ends(e ending) *step {
	s.last().end = e
	return s
}

// aborts says that the client gets no answer, or that of an error.
func (s *step) aborts() *step {
	s.aborted = true
	return s
}

// hit says that the response is what the origin answered in step n, or in one of
// several, without asking it.
func (s *step) hit(n ...int) *step {
	s.sources = n
	return s
}

// gives says that the response is what the origin answered in step n.
func (s *step) gives(n int) *step { return s.hit(n) }

// eventually repeats the request until what must come of it does.
func (s *step) eventually() *step {
	s.polls = true
	return s
}

func (s *step) saw(lines ...string) *step {
	s.sees = append(s.sees, lines...)
	return s
}

func (s *step) code(status int) *step {
	s.status = status
	return s
}

func (s *step) text(body string) *step {
	s.body = &body
	return s
}

// anyText is for a body that is not that of the answer.
func (s *step) anyText() *step {
	s.free = true
	return s
}

// anyStatus is for a response that may be made of the answer in several ways.
func (s *step) anyStatus() *step {
	s.freeCode = true
	return s
}

// lines are fields that the response must have, each with all of its values, or
// must not have, if they are written as "!Name". "Name: *" is any value, and "!Name:
// value" any other one.
func (s *step) lines(lines ...string) *step {
	s.has = append(s.has, lines...)
	return s
}

// says is what Cache-Status must say of this cache. "!name" is a parameter that it
// must not have.
func (s *step) says(params string) *step {
	s.reports = params
	return s
}

func (s *step) aged(seconds int) *step {
	s.age = &seconds
	return s
}

func (s *step) checked(c check) *step {
	s.checks = append(s.checks, c)
	return s
}

// notModified says that the cache answers 304 from what it stored in step n.
func (s *step) notModified(n int) *step { return s.hit(n).code(http.StatusNotModified).text("") }

// reused is a scenario in which a response answers the next request, too.
func reused(status int, lines ...string) []*step {
	return flow(get().answer(status, lines...), get().hit(1))
}

// notReused is one in which it does not.
func notReused(status int, lines ...string) []*step {
	return flow(get().answer(status, lines...), get().answer(status, lines...))
}

const minute = "Cache-Control: max-age=60"

// httpDate stands for a date, in seconds from the beginning of the scenario.
func httpDate(seconds int) string { return fmt.Sprintf(dateMark, seconds) }

const dateMark = "{date %d}"

var dates = regexp.MustCompile(`\{date -?\d+\}`)

// dateIn is a date in some format, in seconds from about now.
func dateIn(layout string, seconds int) string {
	return time.Now().Add(time.Duration(seconds) * time.Second).UTC().Format(layout)
}

// parseLines makes a header of lines.
func parseLines(lines []string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h[name] = append(h[name], strings.Trim(value, " \t"))
	}
	return h
}

// values returns those of a field, whatever the case of its name.
func values(h http.Header, name string) []string {
	var all []string
	for n, v := range h {
		if strings.EqualFold(n, name) {
			all = append(all, v...)
		}
	}
	return all
}

// hasName reports lines that have a field of that name.
func hasName(lines []string, name string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		n, _, _ := strings.Cut(strings.TrimPrefix(line, "!"), ":")
		return strings.EqualFold(n, name)
	})
}
