package session

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/herdless/herdless/internal/nils"
	"github.com/herdless/herdless/internal/reqcopy"
	"github.com/herdless/herdless/internal/respwriter"
)

// lateCommitTimeout bounds a commit after the handler, which does not end with
// the request's own context.
const lateCommitTimeout = 5 * time.Second

// Handler gives next a session, to be had by FromContext or a Key, and commits
// it before the first final header goes out, whatever sends that header.
//
// If the commit fails, Options.ErrorHandler answers and the output of next is
// refused: a failed save is never a 200, nor is with WhenDown Closed a session
// that could not be loaded. The one exception: where next has seen the error and
// answers with a 5xx of its own, that stands.
//
// Changes that next makes after the header are committed when it returns. If
// that fails, the error is logged and the response is cut off. They cannot
// begin a session, nor log in, because that takes a cookie.
//
// A handler that hijacks the connection finds the cookie in w.Header, and is the
// one to send it. No token is renewed then that the handler has not asked for.
//
// If next panics, nothing is committed that was not before; what a Save has done the
// client is told, if somebody answers. A middleware
// between Handler and next that recovers and writes an answer commits like
// every answer.
func (m *Manager) Handler(next http.Handler) http.Handler {
	nils.MustWrap("session: Manager.Handler", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.Session(r.Context()) != nil {
			next.ServeHTTP(w, r) // a second Handler of the same Manager
			return
		}
		x := &exchange{w: w}
		x.session.begin(m, r)
		x.ctx = sessionContext{r.Context(), &x.session}
		x.r = r.WithContext(&x.ctx) //nolint:contextcheck // it is r's, with the session
		x.rw = respwriter.With(w, x)
		if h := w.Header(); len(h) > 0 {
			x.outer = h.Clone()
		}
		defer reqcopy.Return(r, x.r)
		returned := false
		defer func() {
			if !returned {
				x.session.handInPanic(w.Header())
			}
		}()
		next.ServeHTTP(&x.rw, x.r)
		returned = true
		x.rw.Finish()
		if !x.rw.Refused() {
			m.commitLate(&x.ctx, &x.session, x.rw.Status()) //nolint:contextcheck // as above
		}
	})
}

// exchange is a request with its response, in one piece of memory.
type exchange struct {
	session Session
	ctx     sessionContext
	w       http.ResponseWriter
	rw      respwriter.Writer // what the handler gets,
	r       *http.Request     // and with which request
	outer   http.Header       // what was set before the handler
}

// BeforeHeader implements respwriter.Hook. It commits the session and sets its headers,
// or answers with the error.
func (x *exchange) BeforeHeader(status int) bool {
	s, h := &x.session, x.w.Header()
	failedBefore, saved := s.beforeHeader(status)
	err := s.m.Commit(&x.ctx, s, h)
	s.sendHeader(status)
	if err != nil && (!failedBefore || status < 500) {
		x.answer(saved, err)
		return false
	}
	if err != nil {
		s.MarkResponse(h)
		s.handSaved(h, saved, err)
	}
	return true
}

// beforeHeader reports, before the commit, whether the session has failed, which the
// handler has been told, and what token the client needs for what a Save has done.
func (s *Session) beforeHeader(status int) (failed bool, saved token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upgrading = status == http.StatusSwitchingProtocols
	if s.stored && s.send {
		saved = s.token
	}
	return s.err != nil, saved
}

// handSaved tells the client the token of what a Save has done, although what came after it
// has failed with err: the token from before may have ended with that.
func (s *Session) handSaved(h http.Header, saved token, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if saved.id != "" && s.stored && s.send && s.token.digest == saved.digest && !errors.Is(err, ErrGone) {
		s.hand(h)
	}
}

// handInPanic tells the client the token of what a Save has done, for whatever answers to
// the panic.
func (s *Session) handInPanic(h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.headerOut && (s.stored && s.send || s.destroyed) {
		s.mark(h)
		s.hand(h)
	}
}

// answer sends the response for err in the handler's place. The client gets the token of
// what a Save has done, if there is one.
func (x *exchange) answer(saved token, err error) {
	s, m := &x.session, x.session.m
	level := slog.LevelError
	if errors.Is(err, ErrGone) {
		level = slog.LevelInfo // a logout overlapped, which is nobody's fault
	}
	if !errors.Is(err, ErrUnavailable) { // of that storeFailed has told, once for many
		m.opts.Logger.LogAttrs(x.r.Context(), level, "session: the response was refused", slog.Any("error", err))
	}
	// What the handler has set belongs to a response that there will not be:
	// its length, its encoding, cookies that tell of success.
	h := x.w.Header()
	clear(h)
	maps.Copy(h, x.outer)
	s.MarkResponse(h)
	s.handSaved(h, saved, err)
	rw := respwriter.New(x.w, func(int) bool { return true })
	if m.opts.ErrorHandler != nil {
		m.opts.ErrorHandler(rw, x.r, err)
	}
	if rw.Status() == 0 {
		answerDefault(rw, err)
	}
}

func answerDefault(w http.ResponseWriter, err error) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case errors.Is(err, ErrGone):
		http.Error(w, "The session has ended. Please log in again.", http.StatusUnauthorized)
	case errors.Is(err, ErrTooManySessions):
		http.Error(w, "There are too many sessions already. Please log out elsewhere.", http.StatusConflict)
	case errors.Is(err, ErrConflict):
		http.Error(w, "Somebody else is changing the same. Please try again.", http.StatusConflict)
	case errors.Is(err, ErrTooLarge):
		http.Error(w, "The session is too large.", http.StatusInternalServerError)
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "The session store is not available.", http.StatusServiceUnavailable)
	}
}

// commitLate saves what the handler changed after the header. The request's
// context may be over by now, which is how a stream of events usually ends.
func (m *Manager) commitLate(ctx context.Context, s *Session, status int) {
	if s.isSaved() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateCommitTimeout)
	defer cancel()
	failedBefore := s.failed()
	err := m.Commit(ctx, s, nil)
	if err == nil || failedBefore {
		return
	}
	m.opts.Logger.LogAttrs(ctx, slog.LevelError, "session: could not save after the header", slog.Any("error", err))
	if status != http.StatusSwitchingProtocols {
		panic(http.ErrAbortHandler)
	}
}

// isSaved reports that a commit would find nothing to do, as most do after the
// header.
func (s *Session) isSaved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.pending
	return s.err == nil && (!s.loaded || s.destroyed || s.down != nil ||
		len(p.changes) == 0 && p.login == nil && !p.renew && p.idle == 0 && (!s.stored || !s.slides()))
}

// failed reports whether the session can not be used any more, which the
// handler has been told.
func (s *Session) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// sendHeader notes that from now on no header can be set.
func (s *Session) sendHeader(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.headerOut = true
	// A connection that was taken over is nothing that a cache could share.
	s.shareable = !s.touched && status != http.StatusSwitchingProtocols
}
