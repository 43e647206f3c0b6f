package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
)

var (
	// ErrGone means that the session ended while the request was under way:
	// by Destroy, by a timeout, or because its token was renewed. Nothing of
	// the change was stored, and nothing of the session came back.
	ErrGone = errors.New("session: the session has ended")
	// ErrTooLarge means that the session would grow beyond Options.MaxBytes.
	// What is stored stays as it was.
	ErrTooLarge = errors.New("session: the session is too large")
	// ErrNoSession means that there is no session in the context. Put
	// Manager.Handler around the handler.
	ErrNoSession = errors.New("session: no session in the context; put Manager.Handler around this handler")

	errTooLate = errors.New("session: too late, the header has been sent; use the session, and log in or begin one, before the first write")
)

// A Session is the session of one request. The first use asks the store for it,
// and changes are kept until they are committed together, before the response's
// header goes out. It is safe for concurrent use within its request.
//
// When the store cannot be asked, every method of the Session returns that
// error from then on, and nothing is saved: a value that could not be read is
// never overwritten by what a handler makes of its absence.
//
// The methods of a nil Session return ErrNoSession.
type Session struct {
	m       *Manager
	cookies []*http.Cookie // what the client sent under our name

	mu        sync.Mutex
	touched   bool  // some method was called: the response depends on the session
	headerOut bool  // no cookie can be set any more
	shareable bool  // the header went out before the first use
	loaded    bool  // the store was asked, with or without success
	destroyed bool  // by this request
	hasCookie bool  // the client has a cookie of our name, good or not
	err       error // why the session cannot be used any more
	refused   bool  // a change was lost to err

	// The session as it is in the store, if stored.
	stored bool
	token  token
	rec    Record

	// What the next commit changes. A nil value deletes.
	changes map[string][]byte
	user    *string
	renew   bool
}

// Get decodes the value called name from JSON into v, and reports whether there
// is one.
func (s *Session) Get(ctx context.Context, name string, v any) (bool, error) {
	if err := s.lock(ctx, false); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	b := s.value(name)
	if b == nil {
		return false, nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("session: the value %q cannot be decoded into a %T: %w", name, v, err)
	}
	return true, nil
}

// Set stores v as JSON under name. A value equal to the stored one is not
// written. The error is ErrTooLarge where the session would become so; the
// session can be used on.
func (s *Session) Set(ctx context.Context, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("session: the value %q cannot be encoded: %w", name, err)
	}
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.headerOut && !s.stored {
		return errTooLate
	}
	if old, ok := s.rec.Values[name]; ok && bytes.Equal(old, b) {
		delete(s.changes, name)
		return nil
	}
	if size := s.sizeWith(name, b); size > s.m.opts.MaxBytes {
		return fmt.Errorf("%w: %d bytes with the value %q, of %d", ErrTooLarge, size, name, s.m.opts.MaxBytes)
	}
	s.change(name, b)
	return nil
}

// Delete removes the value called name, if there is one.
func (s *Session) Delete(ctx context.Context, name string) error {
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if _, ok := s.rec.Values[name]; ok {
		s.change(name, nil)
	} else {
		delete(s.changes, name)
	}
	return nil
}

// User returns the user that the session is logged in as, or "" if nobody is.
func (s *Session) User(ctx context.Context) (string, error) {
	if err := s.lock(ctx, false); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	return s.currentUser(), nil
}

// Login makes user, which must not be empty, the session's user and renews its
// token: the old one, which somebody may have planted, is refused from the
// commit on. The values stay, unless another user was logged in: what belongs
// to that one is not handed on.
func (s *Session) Login(ctx context.Context, user string) error {
	if user == "" {
		return errors.New("session: Login needs a user; use Destroy to log out")
	}
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.headerOut {
		return errTooLate
	}
	if was := s.currentUser(); was != "" && was != user {
		s.changes = nil
		for name := range s.rec.Values {
			s.change(name, nil)
		}
	}
	s.user = &user
	s.renew = true
	return nil
}

// Renew gives the session a new token; the old one is refused from the commit
// on. Call it wherever the user gains rights. A session that is not stored yet
// gets a new token in any case.
func (s *Session) Renew(ctx context.Context) error {
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.headerOut {
		return errTooLate
	}
	s.renew = true
	return nil
}

// Destroy ends the session at once, for every request that uses it, and lets
// the cookie expire. It is final: what this request has not committed is
// dropped, later changes return ErrGone and reads find nothing.
func (s *Session) Destroy(ctx context.Context) error {
	if err := s.lock(ctx, true); err != nil {
		if errors.Is(err, ErrGone) {
			return nil // it is what the caller wants
		}
		return err
	}
	defer s.mu.Unlock()
	if s.stored {
		// The load has proved that the client holds the secret: the id alone,
		// which is public, ends nothing.
		if _, err := s.m.store.Delete(ctx, s.token.id); err != nil {
			s.fail(fmt.Errorf("session: could not destroy: %w", err))
			return s.err
		}
	}
	s.destroyed, s.stored = true, false
	s.rec, s.changes, s.user, s.renew = Record{}, nil, nil, false
	return nil
}

// lock begins an operation. It returns with s locked and loaded, or not locked
// with the error.
func (s *Session) lock(ctx context.Context, write bool) error {
	if s == nil {
		return ErrNoSession
	}
	s.mu.Lock()
	err := s.ready(ctx, write)
	if err != nil {
		s.mu.Unlock()
	}
	return err
}

func (s *Session) ready(ctx context.Context, write bool) error {
	// A first use after the header would make a response depend on the session
	// that was announced without Cache-Control: private. A cache between here
	// and the client may have begun to share it.
	if s.shareable {
		return errTooLate
	}
	s.touched = true
	if !s.loaded {
		s.loaded = true
		if err := s.load(ctx); err != nil {
			s.err = fmt.Errorf("session: could not load: %w", err)
		}
	}
	if s.err != nil {
		s.refused = s.refused || write
		return s.err
	}
	if write && s.destroyed {
		return ErrGone
	}
	return nil
}

// load asks the store for the first of the client's tokens that it knows.
// Without one the session is a new one, to be stored under a token of our own
// making: what the client came with is never adopted.
func (s *Session) load(ctx context.Context) error {
	for _, t := range s.m.presented(s.cookies) {
		rec, err := s.m.store.Load(ctx, t.id, t.digest)
		if err != nil {
			return err
		}
		if rec.State == Current || rec.State == Superseded {
			s.stored, s.token, s.rec = true, t, rec
			return nil
		}
	}
	return nil
}

// fail makes err final for this request, after a change was lost.
func (s *Session) fail(err error) {
	s.err, s.refused = err, true
}

func (s *Session) value(name string) []byte {
	if b, ok := s.changes[name]; ok {
		return b
	}
	return s.rec.Values[name]
}

func (s *Session) change(name string, value []byte) {
	if s.changes == nil {
		s.changes = make(map[string][]byte)
	}
	s.changes[name] = value
}

func (s *Session) currentUser() string {
	if s.user != nil {
		return *s.user
	}
	return s.rec.User
}

// sizeWith returns what the session measures with value under name, as this
// request sees it. The store decides again, together with what other requests
// have written meanwhile.
func (s *Session) sizeWith(name string, value []byte) int {
	size := len(name) + len(value)
	for n, b := range s.rec.Values {
		if _, changed := s.changes[n]; n != name && !changed {
			size += len(n) + len(b)
		}
	}
	for n, b := range s.changes {
		if n != name && b != nil {
			size += len(n) + len(b)
		}
	}
	return size
}
