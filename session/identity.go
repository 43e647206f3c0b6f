package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/herdless/herdless/internal/durations"
)

// A Device tells sessions of one user apart, in a list that the user reads.
type Device struct {
	// Address is the client's address. By default it is the peer's, which
	// behind a proxy is the proxy's; see Options.Device.
	Address string
	// UserAgent is the User-Agent field of the request.
	UserAgent string
	// Name is whatever the program likes to call it, such as "the desk at the
	// counter".
	Name string
}

// meta is what the Manager notes about a session, in the store as JSON.
type meta struct {
	User       string `json:"u,omitempty"`
	Address    string `json:"a,omitempty"`
	UserAgent  string `json:"g,omitempty"`
	Name       string `json:"n,omitempty"`
	Persistent bool   `json:"p,omitempty"` // the cookie outlives the browser

	aged bool // as in content; what a commit writes is not
}

// Of what a client says about itself, so much is kept.
const maxDeviceText = 256

const metaName = reserved + "meta"

func openMeta(s *sealer, stored []byte) (meta, error) {
	if len(stored) == 0 {
		return meta{}, nil
	}
	var m meta
	c, err := s.open(metaName, stored)
	if err == nil {
		err = json.Unmarshal(c.value, &m)
	}
	if err != nil {
		return meta{}, fmt.Errorf("who it belongs to cannot be read: %w", err)
	}
	m.aged = c.aged
	return m, nil
}

func sealMeta(s *sealer, m meta) ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return s.seal(metaName, data, 0, false)
}

// User returns the user that the session is logged in as, or "" if nobody is.
func (s *Session) User(ctx context.Context) (string, error) {
	if err := s.lock(ctx, false); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	return s.currentUser(), nil
}

func (s *Session) currentUser() string {
	if s.login != nil {
		return s.login.User
	}
	return s.meta.User
}

// Login makes user, which must not be empty, the session's user, with a new
// token: the old one, which somebody may have planted, is refused from the
// commit on. The values stay, unless another user was logged in: what belongs
// to that one is not handed on. The session begins anew, with full timeouts,
// unless user was logged in already: then it is a step up, see AuthenticatedAt.
//
// A Device tells the user which session is which; without one it is made of the
// request, see Options.Device. The commit answers ErrTooManySessions where
// Options.MaxPerUser forbids one more; a handler that wants to know calls Save.
func (s *Session) Login(ctx context.Context, user string, device ...Device) error {
	if user == "" {
		return errors.New("session: Login needs a user; use Destroy to log out")
	}
	if !utf8.ValidString(user) {
		return errors.New("session: Login needs a user in UTF-8; encode raw bytes, such as a UUID's")
	}
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.headerOut {
		return s.tooLate(ctx)
	}
	if was := s.currentUser(); was != "" && was != user {
		s.changes, s.settled = nil, nil
	}
	var d Device
	if len(device) > 0 {
		d = device[0]
	} else {
		d = s.m.opts.Device(s.request)
	}
	s.login = &meta{
		User: user, Address: clip(d.Address), UserAgent: clip(d.UserAgent), Name: clip(d.Name),
		Persistent: s.meta.Persistent && s.meta.User == user,
	}
	return nil
}

func clip(text string) string { return text[:min(len(text), maxDeviceText)] }

// Renew gives the session a new token; the old one is refused from the commit
// on. Call it wherever the user gains rights. A session that is not stored yet
// gets a new token in any case.
func (s *Session) Renew(ctx context.Context) error {
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.headerOut {
		return s.tooLate(ctx)
	}
	s.renew = true
	return nil
}

// SetTimeouts gives this session timeouts of its own, in place of those of the
// Options: both must be at least a millisecond, idle no longer than absolute, which
// counts from the session's beginning. With persistent, "remember me", the client keeps the
// token until the session ends, and not only until the browser does.
func (s *Session) SetTimeouts(ctx context.Context, idle, absolute time.Duration, persistent bool) error {
	if idle <= 0 || absolute < idle {
		return fmt.Errorf("session: timeouts of %v idle and %v in all; they must be positive, and the first no longer than the second", idle, absolute)
	}
	if short := durations.Fault(idle); short != "" { // of the two it is the shorter one
		return fmt.Errorf("session: the idle timeout %s", short)
	}
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.headerOut {
		return s.tooLate(ctx)
	}
	s.idle, s.absolute, s.persist = idle, absolute, persistent
	return nil
}

// Info is what is known about a session.
type Info struct {
	// ID names the session. It is no secret, and of no use to who has nothing
	// else. A login changes it. It is empty for one that is not stored.
	ID   string
	User string
	// Device is as it was at the login.
	Device
	// CreatedAt is when the session began, AuthenticatedAt when the user last
	// logged in, zero if never. SeenAt is when the session was last used, to
	// the precision of Options.SlideEvery; it is set in lists only.
	CreatedAt, AuthenticatedAt, SeenAt time.Time
	// ExpiresIn is the time until the session ends if nobody uses it.
	ExpiresIn time.Duration
	// Current says, in the list of Session.Sessions, that it is the one of the
	// request.
	Current bool
}

// Info returns what is known about the session, as it was loaded or last
// committed.
func (s *Session) Info(ctx context.Context) (Info, error) {
	if err := s.lock(ctx, false); err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	if !s.stored {
		return Info{}, nil
	}
	return Info{
		ID: s.token.id, User: s.meta.User, Device: s.meta.device(),
		CreatedAt: s.rec.CreatedAt, AuthenticatedAt: s.rec.AuthenticatedAt,
		ExpiresIn: s.rec.ExpiresIn, Current: true,
	}, nil
}

func (m meta) device() Device {
	return Device{Address: m.Address, UserAgent: m.UserAgent, Name: m.Name}
}

// AuthenticatedWithin reports whether the user has logged in within the last d,
// by the store's clock. Ask for the password again, and call Login, where it has
// to be so and is not.
func (s *Session) AuthenticatedWithin(ctx context.Context, d time.Duration) (bool, error) {
	if err := s.lock(ctx, false); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	if s.login != nil {
		return true, nil
	}
	if !s.stored || s.rec.AuthenticatedAt.IsZero() {
		return false, nil
	}
	now := s.rec.ReadAt.Add(time.Since(s.readAt)) // by the store's clock
	return now.Sub(s.rec.AuthenticatedAt) <= d, nil
}

// Destroy ends the session at once, for every request that uses it, and makes
// the client forget its token. It is final: what this request has not committed
// is dropped, later changes return ErrGone, a flash or a login too, and reads find
// nothing.
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
		s.m.forget(s.token.id)
		if _, err := s.m.store.Delete(ctx, s.token.id); err != nil {
			return s.fail(fmt.Errorf("session: could not destroy: %w", err))
		}
		s.m.happened(ctx, Event{Kind: Revoked, ID: s.token.id, User: s.meta.User})
	}
	s.destroyed, s.stored, s.send = true, false, false
	s.rec, s.meta, s.pending, s.opened = Record{}, meta{}, pending{}, nil
	return nil
}
