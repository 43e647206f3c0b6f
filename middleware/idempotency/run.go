package idempotency

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/herdless/herdless/internal/reqcopy"
)

// run is one request on its way.
type run struct {
	guard *Guard
	next  http.Handler
	w     http.ResponseWriter
	r     *http.Request
	body  []byte
	key   string
	begin Begin
}

// step takes one step in the store. A client that goes away does not end it.
func step[T any](u *run, do func(ctx context.Context) (T, error)) (T, error) {
	return bounded(context.WithoutCancel(u.r.Context()), u.guard.opts.Timeout, do)
}

// bounded takes one step in the store, for as long as ctx and timeout say, also if the
// store does not. A panic of the store is an error: some steps are taken where it would
// end the process.
func bounded[T any](ctx context.Context, timeout time.Duration, do func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		o := outcome{err: errors.New("idempotency: the store has ended its goroutine")}
		defer func() {
			if p := recover(); p != nil {
				o.err = fmt.Errorf("idempotency: panic: %v\n\n%s", p, debug.Stack())
			}
			done <- o
		}()
		o.value, o.err = do(ctx)
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done: // both at once, on a busy machine
		return o.value, o.err
	default:
		var none T
		return none, ctx.Err()
	}
}

var errLate = errors.New("idempotency: the answer came when the lease was over")

func (u *run) log(msg string, err error) {
	u.guard.opts.Logger.LogAttrs(u.r.Context(), slog.LevelError, msg, slog.Any("error", err))
}

// serve answers the request, by whatever stands in the store or by running the
// handler.
func (u *run) serve() {
	deadline := time.Now().Add(u.guard.opts.Wait)
	var woken <-chan struct{}
	var ran *recorder // what came of it here
	for {
		asked := time.Now()
		state, err := step(u, func(ctx context.Context) (State, error) { return u.guard.store.Begin(ctx, u.key, u.begin) })
		switch {
		case err != nil && ran == nil:
			u.takeBack()
		case err == nil && state.Phase == Started && ran == nil && !time.Now().Before(u.reliable(asked)):
			u.abandon() // for the next one, if there is none yet
			err = errLate
		}
		switch {
		case err != nil:
			u.log("idempotency: the store fails; the request is refused", err)
			u.w.Header().Set("Retry-After", "1")
			refuse(u.w, http.StatusServiceUnavailable, "It cannot be told whether this request has run already", "")
			return
		case state.Phase == Mismatched:
			refuse(u.w, http.StatusUnprocessableEntity, "Idempotency-Key is already used", "It belongs to another request.")
			return
		case state.Phase == Finished:
			u.replay(state.Response)
			return
		case state.Phase == Started:
			// If it has run here, and nobody else has come to an end with it, the
			// store has forgotten it: what came of it is what there is.
			if ran == nil {
				ran = u.execute(state.Attempt, asked)
			}
			if u.settle(ran) {
				return
			}
			// Somebody else has taken over, and this one is a duplicate like
			// any other: it gets what that one makes of it.
			deadline = time.Now().Add(u.guard.opts.Wait)
			continue
		}
		if woken == nil && u.guard.opts.Wait > 0 {
			// No longer than other steps: who is not told can look.
			ctx, cancel := context.WithTimeout(u.r.Context(), min(u.guard.opts.Timeout, time.Until(deadline)))
			w, stop, err := u.guard.store.Watch(ctx, u.key)
			cancel()
			if err == nil {
				defer stop()
				woken = w
				continue // it may have been finished before the watch began
			}
		}
		if !u.wait(woken, state.Remaining, deadline) {
			u.w.Header().Set("Retry-After", "1")
			refuse(u.w, http.StatusConflict, "A request is outstanding for this Idempotency-Key",
				"The first request with this key has not finished yet.")
			return
		}
	}
}

// wait waits until something may have happened, and reports whether there is time
// to look.
func (u *run) wait(woken <-chan struct{}, lease time.Duration, deadline time.Time) bool {
	// What is not told is found out when the lease is over, or after a while.
	pause := min(lease+time.Millisecond, longestRetryPause)
	if woken == nil {
		pause = min(pause, retryPauseOfErrors)
	}
	left := time.Until(deadline)
	if left <= 0 {
		return false
	}
	timer := time.NewTimer(min(pause, left))
	defer timer.Stop()
	select {
	case <-woken:
		return true
	case <-timer.C:
		return time.Now().Before(deadline)
	case <-u.r.Context().Done():
		return false
	}
}

// execute runs the handler, under the lease that was asked for then.
func (u *run) execute(attempt int, asked time.Time) *recorder {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(u.r.Context()))
	defer cancel(context.Canceled)
	renewed := make(chan struct{})
	renewing, stop := context.WithCancel(context.WithoutCancel(u.r.Context()))
	go func() {
		defer close(renewed)
		u.renew(renewing, asked, cancel)
	}()
	rec := &recorder{u: u, header: u.w.Header().Clone(), outer: u.w.Header().Clone()}
	done := false
	defer func() {
		if done {
			return
		}
		// The handler has panicked: nobody knows how far it came.
		stop()
		<-renewed
		u.abandon()
	}()
	r := u.request(ctx, attempt)
	defer reqcopy.Return(u.r, r)
	u.next.ServeHTTP(rec, r)
	done = true
	stop()
	<-renewed
	rec.WriteHeader(http.StatusOK) // for a handler that wrote nothing
	rec.lost = errors.Is(context.Cause(ctx), ErrLost)
	return rec
}

// settle stores the response and sends it. It reports false if that was in vain: the
// lease was lost, and there may be another runner.
func (u *run) settle(rec *recorder) bool {
	status := rec.status
	switch {
	case rec.passing:
		// It is out already. A retry must not run it again.
		resp := response{Status: status, TooLong: true}
		switch stored, err := u.finish(resp); {
		case err != nil:
			u.finishLater(resp, err)
		case !stored:
			u.log("idempotency: it could not be stored that a request has run", ErrLost)
		}
		return true
	case !u.guard.opts.Keep(status) && rec.lost:
		// It may have failed because it was told to stop. If somebody else makes
		// more of it, that is what the client gets.
		rec.lost = false
		return false
	case !u.guard.opts.Keep(status):
		u.abandon()
	default:
		resp := rec.response()
		switch stored, err := u.finish(resp); {
		case err != nil: // it has run, and the client had better know
			u.finishLater(resp, err)
		case !stored:
			u.log("idempotency: the response is thrown away", ErrLost)
			return false
		}
	}
	h := u.w.Header()
	clear(h)
	maps.Copy(h, rec.sent)
	u.w.WriteHeader(status)
	_, _ = u.w.Write(rec.body.Bytes())
	return true
}

// finishLater goes on trying to store a response, which could not be stored because of err,
// for as long as the lease may last: whoever waits for it would run the request again then,
// because the store was away for a moment.
func (u *run) finishLater(resp response, err error) {
	lease := u.guard.opts.Lease
	end := time.Now().Add(lease)
	go func() {
		defer func() { _ = recover() }() // the logger is not ours, and this is no goroutine of a request
		stored := false
		for err != nil && time.Now().Before(end) {
			time.Sleep(lease / 30)
			stored, err = u.finish(resp)
		}
		if !stored && err == nil {
			err = ErrLost
		}
		if err != nil {
			u.log("idempotency: a response could not be stored; a retry may run the request again", err)
		}
	}()
}

// finish stores a response, or if there is no room for it, that there was one.
func (u *run) finish(resp response) (bool, error) {
	data, err := json.Marshal(resp)
	if err != nil {
		return false, err
	}
	stored, err := step(u, func(ctx context.Context) (bool, error) {
		return u.guard.store.Finish(ctx, u.key, u.begin.Owner, data, u.guard.ttl)
	})
	if errors.Is(err, errFull) && !resp.TooLong {
		u.log("idempotency: a response is not kept, and retries are answered with 409", err)
		return u.finish(response{Status: resp.Status, TooLong: true})
	}
	return stored, err
}

func (u *run) abandon() {
	if err := u.abandoned(); err != nil {
		u.log("idempotency: the request stays blocked until its lease is over", err)
	}
}

// takeBack abandons what may have been begun although no answer has come, for nobody who
// waits: a retry would wait for the lease, and nobody runs it. If that is in vain as well, the lease
// ends by itself.
func (u *run) takeBack() {
	go func() { _ = u.abandoned() }() // a panic of the store is contained
}

func (u *run) abandoned() error {
	_, err := step(u, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, u.guard.store.Abandon(ctx, u.key, u.begin.Owner)
	})
	return err
}

// reliable returns until when a lease can be counted on that was asked for then: the handler
// takes a moment to notice that it is over, and clocks may differ in speed.
func (u *run) reliable(asked time.Time) time.Time { return asked.Add(u.guard.opts.Lease * 9 / 10) }

// renew extends the lease, which lasts since confirmed, until ctx ends, and ends the
// handler's context when it can not be promised any more. A lease begins in the store
// before the answer is here, so it is counted from when it was asked for.
func (u *run) renew(ctx context.Context, confirmed time.Time, lost context.CancelCauseFunc) {
	lease := u.guard.opts.Lease
	timer := time.NewTimer(time.Until(confirmed.Add(lease / 3)))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		asked := time.Now()
		still, err := bounded(ctx, min(u.guard.opts.Timeout, time.Until(u.reliable(confirmed))), func(ctx context.Context) (bool, error) {
			return u.guard.store.Extend(ctx, u.key, u.begin.Owner, lease)
		})
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !still:
			lost(ErrLost)
			return
		case err == nil:
			confirmed = asked
		case !time.Now().Before(u.reliable(confirmed)):
			lost(ErrLost)
			return
		}
		pause := time.Until(confirmed.Add(lease / 3))
		if err != nil {
			pause = lease / 30
		}
		timer.Reset(pause)
	}
}

// replay sends the response of the request that has run.
func (u *run) replay(data []byte) {
	var resp response
	err := json.Unmarshal(data, &resp)
	if err == nil && (resp.Status < 200 || resp.Status > 999) {
		err = fmt.Errorf("idempotency: the stored status is %d", resp.Status)
	}
	if err != nil {
		u.log("idempotency: a stored response cannot be read", err)
		refuse(u.w, http.StatusInternalServerError, "The request has run, but its response cannot be read", "")
		return
	}
	if resp.TooLong {
		refuse(u.w, http.StatusConflict, "The request has run, but its response is too long to be repeated",
			"Its status was "+strconv.Itoa(resp.Status)+".")
		return
	}
	h := u.w.Header()
	for name, values := range resp.Fields {
		if slices.Contains(notKept, http.CanonicalHeaderKey(name)) {
			continue // not by a Guard
		}
		h[name] = nil
		for _, v := range values {
			h[name] = append(h[name], string(v))
		}
	}
	h.Set(replayedField, "true")
	u.w.WriteHeader(resp.Status)
	_, _ = u.w.Write(resp.Body)
}

// response is what is stored of a response.
type response struct {
	Status  int                 `json:"status"`
	Fields  map[string][][]byte `json:"fields,omitempty"` // not strings: JSON has UTF-8 only
	Body    []byte              `json:"body,omitempty"`
	TooLong bool                `json:"tooLong,omitempty"`
}

// notKept are fields that belong to one connection or one sending (RFC 9110,
// section 7.6.1), and cookies, which are secrets.
var notKept = []string{
	"Connection", "Date", "Keep-Alive", "Proxy-Connection", "Set-Cookie", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// recorder is the handler's ResponseWriter: it holds the response back until it is
// complete, or too long.
type recorder struct {
	u       *run
	outer   http.Header // as it was before the handler
	header  http.Header
	sent    http.Header // as it was when the status was set
	status  int
	body    bytes.Buffer
	passing bool // it is too long to be kept
	lost    bool // the lease was, while the handler ran
}

// Header implements http.ResponseWriter.
func (rec *recorder) Header() http.Header { return rec.header }

// WriteHeader implements http.ResponseWriter. Informational responses are dropped.
// Like net/http's it panics for a status that is none.
func (rec *recorder) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("idempotency: invalid WriteHeader code %v", status))
	}
	if status >= 200 && rec.status == 0 {
		rec.status, rec.sent = status, rec.header.Clone() // what comes later is too late
	}
}

// Write implements http.ResponseWriter.
func (rec *recorder) Write(p []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	if !rec.passing && rec.body.Len()+len(p) > rec.u.guard.opts.MaxResponse {
		rec.passing = true
		h := rec.u.w.Header()
		clear(h)
		maps.Copy(h, rec.sent)
		rec.u.w.WriteHeader(rec.status)
		if _, err := rec.u.w.Write(rec.body.Bytes()); err != nil {
			return 0, err
		}
		rec.body = bytes.Buffer{}
	}
	if rec.passing {
		return rec.u.w.Write(p)
	}
	return rec.body.Write(p)
}

// Flush implements http.Flusher. It has an effect only if the response is too long to be
// kept.
func (rec *recorder) Flush() {
	rec.WriteHeader(http.StatusOK)
	if rec.passing {
		_ = http.NewResponseController(rec.u.w).Flush() // the server's own may have none
	}
}

// response returns what is to be stored: what the handler has set, not what
// others had before.
func (rec *recorder) response() response {
	fields := make(map[string][][]byte)
	for name, values := range rec.sent {
		if before, ok := rec.outer[name]; ok && slices.Equal(before, values) || slices.Contains(notKept, http.CanonicalHeaderKey(name)) {
			continue
		}
		fields[name] = [][]byte{}
		for _, v := range values {
			fields[name] = append(fields[name], []byte(v))
		}
	}
	return response{Status: rec.status, Fields: fields, Body: rec.body.Bytes()}
}

// refuse answers with a problem document (RFC 9457).
func refuse(w http.ResponseWriter, status int, title, detail string) {
	body, _ := json.Marshal(struct { // never fails
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{"about:blank", title, status, detail})
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the client has gone
}
