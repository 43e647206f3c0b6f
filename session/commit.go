package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
)

// Commit saves what changed in s, in one step, and returns the cookie to set,
// or nil if the client has the right one. It must come before the header of the
// response; see Session.MarkResponse for the other headers. A session that did
// not change costs nothing, but that a request that used it starts the idle
// time anew now and then (Options.SlideEvery).
//
// If the error is not nil the response must not tell of success. It is ErrGone
// where the session ended meanwhile, ErrTooLarge, or a fault of the store; also
// where a change was refused earlier because the session could not be loaded.
// A Commit that fails is final for s.
//
// Commit may be called again, for changes made since.
func (m *Manager) Commit(ctx context.Context, s *Session) (*http.Cookie, error) {
	if s == nil {
		return nil, ErrNoSession
	}
	if s.m != m {
		return nil, errors.New("session: the session is another Manager's")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil && s.refused:
		return nil, s.err
	case s.err != nil || !s.loaded:
		return nil, nil
	case s.destroyed:
		return s.forget(), nil
	case s.stored && s.renew:
		return s.commitRenewed(ctx)
	case s.stored && (len(s.changes) > 0 || s.user != nil):
		return nil, s.commitDelta(ctx, Delta{ID: s.token.id, Digest: s.token.digest})
	case s.stored:
		s.slide(ctx)
		return nil, nil
	case len(s.changes) > 0 || s.user != nil:
		return s.commitNew(ctx)
	}
	return nil, nil
}

// forget returns, once, the cookie that makes the client forget the one that it
// has.
func (s *Session) forget() *http.Cookie {
	if !s.hasCookie {
		return nil
	}
	s.hasCookie = false
	return s.m.expiredCookie()
}

func (s *Session) commitRenewed(ctx context.Context) (*http.Cookie, error) {
	next := s.m.tokens.renew(s.token.id)
	err := s.commitDelta(ctx, Delta{
		ID: s.token.id, Digest: s.token.digest, Rotate: &Rotation{Digest: next.digest},
	})
	if err != nil {
		return nil, err
	}
	s.token, s.hasCookie = next, true
	return s.m.cookieFor(next), nil
}

func (s *Session) commitNew(ctx context.Context) (*http.Cookie, error) {
	t := s.m.tokens.create()
	err := s.commitDelta(ctx, Delta{
		ID: t.id, Digest: t.digest, Create: true,
		IdleTimeout: s.m.opts.IdleTimeout, AbsoluteTimeout: s.m.opts.AbsoluteTimeout,
	})
	if err != nil {
		return nil, err
	}
	s.stored, s.token, s.hasCookie = true, t, true
	return s.m.cookieFor(t), nil
}

// commitDelta adds the pending changes to d and commits it.
func (s *Session) commitDelta(ctx context.Context, d Delta) error {
	d.User = s.user
	d.Set = make(map[string][]byte, len(s.changes))
	for name, value := range s.changes {
		if value == nil {
			d.Delete = append(d.Delete, name)
		} else {
			d.Set[name] = value
		}
	}
	if len(d.Set) > 0 {
		// Without Set the session shrinks, which is right at any size.
		d.MaxBytes = s.m.opts.MaxBytes
	}
	res, err := s.m.store.Commit(ctx, d)
	if err == nil {
		err = res.err()
	}
	if err != nil {
		s.fail(fmt.Errorf("session: could not save: %w", err))
		return s.err
	}

	if s.rec.Values == nil {
		s.rec.Values = make(map[string][]byte, len(d.Set))
	}
	maps.Copy(s.rec.Values, d.Set)
	for _, name := range d.Delete {
		delete(s.rec.Values, name)
	}
	s.rec.User = s.currentUser()
	s.rec.Version, s.rec.ExpiresIn, s.rec.EndsIn = res.Version, res.ExpiresIn, res.EndsIn
	if d.Create {
		s.rec.IdleTimeout = d.IdleTimeout
	}
	s.changes, s.user, s.renew = nil, nil, false
	return nil
}

// err translates the outcome.
func (r Result) err() error {
	switch r.Outcome {
	case Committed:
		return nil
	case Gone:
		return ErrGone
	case TooLarge:
		return ErrTooLarge
	case Exists:
		return errors.New("the store has a session of a newly drawn id; is another program using its keys?")
	}
	return fmt.Errorf("the store answered with the unknown outcome %d", r.Outcome)
}

// slide starts the idle time anew if enough of it has passed. Nothing is lost
// if that fails, or if the session has ended since it was read: the response
// rests on what was true then. So it is no error.
func (s *Session) slide(ctx context.Context) {
	fresh := (1 - s.m.opts.SlideEvery) * float64(s.rec.IdleTimeout)
	if float64(s.rec.ExpiresIn) >= fresh || s.rec.ExpiresIn >= s.rec.EndsIn {
		return
	}
	res, err := s.m.store.Commit(ctx, Delta{ID: s.token.id, Digest: s.token.digest})
	if err != nil {
		s.m.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "session: could not renew the idle time",
			slog.String("session", s.token.id), slog.Any("error", err))
	} else if res.Outcome == Committed {
		s.rec.Version = res.Version
	}
	// Once a request is enough.
	s.rec.ExpiresIn = s.rec.IdleTimeout
}
