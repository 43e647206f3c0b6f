package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Commit saves what changed in s, in one step, and sets what the response needs
// in h: the client's new token, if it needs one, and the marks of MarkResponse. It
// must come before the header of the response. A session that did not change
// costs nothing, but that a request that used it starts the idle time anew now
// and then (Options.SlideEvery) and renews its token (Options.RenewEvery). After
// the header h is nil.
//
// If the error is not nil the response must not tell of success. It is ErrGone
// where the session ended meanwhile, ErrTooLarge, ErrTooManySessions, or
// ErrUnavailable; also where a change was refused earlier because the session
// could not be loaded. A Commit that fails is final for s.
//
// Commit may be called again, for changes made since.
func (m *Manager) Commit(ctx context.Context, s *Session, h http.Header) error {
	if s == nil {
		return ErrNoSession
	}
	if s.m != m {
		return errors.New("session: the session is another Manager's")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h == nil {
		s.headerOut = true
	}
	if err := s.commit(ctx); err != nil {
		s.m.refused(ctx, s.token.id, err)
		return s.fail(err)
	}
	if h != nil {
		s.mark(h)
		s.hand(h)
	}
	return nil
}

// Save commits what has changed so far, for a handler that wants to know now
// whether it is saved. After ErrTooManySessions and ErrTooLarge the session is as
// it was before the changes, which are dropped, and can be used on; every other
// error is final, and the response becomes an error too.
func (s *Session) Save(ctx context.Context) error {
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	err := s.commit(ctx)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrTooManySessions) || errors.Is(err, ErrTooLarge) {
		s.pending = pending{}
	} else {
		s.err = err
	}
	s.m.refused(ctx, s.token.id, err)
	return err
}

// hand tells the client its token, or that it has none any more.
func (s *Session) hand(h http.Header) {
	switch {
	case s.destroyed && s.hasToken:
		s.hasToken = false
		s.m.transport.write(h, "", 0)
	case s.stored && s.send:
		s.send, s.hasToken = false, true
		var maxAge time.Duration
		if s.meta.Persistent {
			maxAge = s.rec.EndsIn
		}
		s.m.transport.write(h, s.token.text, maxAge)
	}
}

func (s *Session) commit(ctx context.Context) error {
	switch {
	case s.err != nil:
		return s.err
	case !s.loaded || s.destroyed || s.down != nil:
		return nil //nolint:nilerr // nothing has changed that could be saved
	case s.login != nil && s.stored && s.rec.Owner == s.m.tokens.owner(s.login.User):
		return s.commitStored(ctx) // a step up
	case s.login != nil:
		return s.commitLogin(ctx)
	case s.stored:
		return s.commitStored(ctx)
	case len(s.changes) > 0:
		return s.create(ctx, s.m.tokens.create(""), Delta{Set: map[string][]byte{}}, meta{Persistent: s.persist})
	}
	return nil
}

// commitStored changes the session where it is.
func (s *Session) commitStored(ctx context.Context) error {
	d := Delta{ID: s.token.id, Digest: s.token.digest, IdleTimeout: s.idle, AbsoluteTimeout: s.absolute, Basis: s.rec.Basis}
	newMeta := s.meta
	if s.login != nil {
		newMeta, d.Authenticated = *s.login, true
	}
	if s.idle > 0 {
		newMeta.Persistent = s.persist
	}
	if err := s.seal(&d, &s.sealer); err != nil {
		return err
	}
	if newMeta != s.meta {
		var err error
		if d.Meta, err = sealMeta(&s.sealer, newMeta); err != nil {
			return err
		}
	}
	asked := len(d.Set)+len(d.Delete) > 0 || d.Meta != nil || d.Authenticated || d.IdleTimeout > 0 || s.renew
	next, err := s.rotation(&d)
	if err != nil {
		return err
	}
	if !asked && d.Rotate == nil {
		if !s.slides() {
			return nil
		}
		d.IfExpiresWithin = s.runDown()
	}
	if newMeta.aged { // what is written is written as of today, and this with it
		newMeta.aged = false
		if d.Meta, err = sealMeta(&s.sealer, newMeta); err != nil {
			return err
		}
	}

	res, err := s.m.store.Commit(ctx, d)
	if err == nil {
		err = res.err()
	}
	switch {
	case err != nil && asked:
		return fmt.Errorf("session: could not save: %w", err)
	case err != nil:
		// Nothing is lost if the idle time is not renewed, or the token, nor if
		// the session has ended since it was read: the response rests on what
		// was true then.
		s.m.log(ctx, slog.LevelWarn, "session: could not renew the idle time", s.token.id, err)
		s.rec.ExpiresIn, s.rec.DigestAge = s.rec.IdleTimeout, 0 // once a request is enough
		return nil
	}
	s.written(d, res)
	if newMeta.Persistent != s.meta.Persistent || newMeta.Persistent && d.AbsoluteTimeout > 0 {
		s.send = true // with another age
	}
	s.meta, s.pending = newMeta, pending{}
	return s.rotated(ctx, d, res, next)
}

// slides reports whether enough of the idle time has passed to start it anew.
func (s *Session) slides() bool {
	return s.rec.ExpiresIn < s.runDown() && s.rec.ExpiresIn < s.rec.EndsIn
}

// runDown returns the time left below which the idle time is started anew.
func (s *Session) runDown() time.Duration {
	return time.Duration((1 - s.m.opts.SlideEvery) * float64(s.rec.IdleTimeout))
}

// rotation gives d a new token, if it needs one.
func (s *Session) rotation(d *Delta) (next token, err error) {
	switch {
	case s.renew || s.login != nil:
		next = s.m.tokens.renew(s.token.id)
		d.Rotate = &Rotation{Digest: next.digest}
	case s.m.opts.RenewEvery > 0 && s.rec.State == Current && s.rec.GraceLeft == 0 && !s.headerOut && !s.upgrading &&
		s.rec.DigestAge >= s.m.opts.RenewEvery:
		next = s.m.tokens.renew(s.token.id)
		handover, err := handOver(s.token, next)
		if err != nil {
			return next, err
		}
		d.Rotate = &Rotation{Digest: next.digest, Grace: s.m.opts.RenewGrace, Handover: handover, Once: true}
	}
	return next, nil
}

// rotated takes over the token that a commit has made the session's.
func (s *Session) rotated(ctx context.Context, d Delta, res Result, next token) error {
	switch {
	case d.Rotate == nil:
		return nil
	case res.Handover != nil:
		// Another request of this client was faster: they agree on its token.
		var err error
		if next, err = s.m.tokens.takeOver(s.token, res.Handover); err != nil {
			return fmt.Errorf("session: the token handed over cannot be read: %w", err)
		}
	default:
		s.m.happened(ctx, Event{Kind: Renewed, ID: s.token.id, User: s.meta.User})
	}
	s.m.forget(s.token.id)
	s.token, s.send = next, true
	s.rec.State, s.rec.DigestAge, s.rec.GraceLeft = Current, 0, d.Rotate.Grace
	return nil
}

// takeFor is for how long a session is withdrawn while it is made anew, at least:
// it must not come back before the steps of that have ended.
const takeFor = 5 * time.Second

// commitLogin begins a session of the user's own, in the user's place, with what
// is in the present one if that belongs to nobody, and ends the present one. If it
// cannot, it leaves things as they were.
func (s *Session) commitLogin(ctx context.Context) error {
	was, next := token{}, s.m.tokens.create(s.m.tokens.owner(s.login.User))
	if s.stored {
		was = s.token
	}
	begun, err := s.moveTo(ctx, next, was)
	if err != nil {
		s.undoMove(ctx, next, was, begun)
	}
	return err
}

// moveTo makes the session anew under the token next. The token of the present
// one, if it is stored, is was. After an error, begun says that the new one may be
// there.
func (s *Session) moveTo(ctx context.Context, next, was token) (begun bool, err error) {
	d := Delta{
		Set: map[string][]byte{}, Owner: s.m.tokens.owner(s.login.User), Authenticated: true,
		MaxOwned: s.m.opts.MaxPerUser, EvictOldest: s.m.opts.EvictOldest,
	}
	if was.id != "" {
		// Withdrawn first: a write of another request that came between a
		// reading and the end would be lost, and nobody told.
		rec, err := s.m.store.Take(ctx, was.id, was.digest, next.id, s.withdrawn())
		switch {
		case err != nil:
			return false, fmt.Errorf("session: could not log in: %w", err)
		case rec.State == Missing:
			// It has ended meanwhile, and what was in it with it. The password
			// that was given counts all the same.
		case s.meta.User == "":
			if err := s.move(ctx, &d, rec, next); err != nil {
				return false, err
			}
		}
	}
	newMeta := *s.login
	if s.idle > 0 {
		newMeta.Persistent = s.persist
	} else {
		newMeta.Persistent = newMeta.Persistent || s.meta.User == "" && s.meta.Persistent
	}
	if err := s.create(ctx, next, d, newMeta); err != nil || was.id == "" {
		return errors.Is(err, ErrUnavailable), err
	}
	s.m.forget(was.id)
	if _, err := s.m.store.Delete(ctx, was.id); err != nil && !s.hasEnded(ctx, was, next) {
		// The old token would work again, when the time for which its session
		// was withdrawn is over.
		return true, fmt.Errorf("session: could not end the session before the login: %w", err)
	}
	return true, nil
}

// hasEnded reports whether the session of was, which the login to next has withdrawn, is
// known to be there no more: the answer to its end was lost, or too few replicas have
// confirmed it. To undo the login then would leave the visitor without either.
func (s *Session) hasEnded(ctx context.Context, was, next token) bool {
	rec, err := s.m.store.Take(context.WithoutCancel(ctx), was.id, was.digest, next.id, s.withdrawn())
	return err == nil && rec.State == Missing
}

// withdrawn is for how long the session before a login is.
func (s *Session) withdrawn() time.Duration { return max(takeFor, 5*s.m.opts.StoreTimeout) }

// undoMove ends the session of next, if that may have begun, and gives back that
// of was, if there is one. The new one comes first: with both alive for a moment, a
// server that dies between the steps would leave both.
func (s *Session) undoMove(ctx context.Context, next, was token, begun bool) {
	ctx = context.WithoutCancel(ctx) // that the client has gone is no reason to stop halfway
	if begun {
		if _, err := s.m.store.Delete(ctx, next.id); err != nil {
			s.m.log(ctx, slog.LevelWarn, "session: the session of a login that failed may be left, in its user's list", next.id, err)
			return
		}
	}
	if was.id == "" {
		return
	}
	if _, err := s.m.store.Take(ctx, was.id, was.digest, next.id, 0); err != nil {
		s.m.log(ctx, slog.LevelWarn, "session: the session comes back in some seconds only", was.id, err)
	}
}

// move adds to d what is in rec, for the session of next.
func (s *Session) move(ctx context.Context, d *Delta, rec Record, next token) error {
	to := s.m.vault.forSession(next.id)
	for _, e := range rec.Values {
		name, stored := e.Name, []byte(e.Data)
		if len(s.m.vault.keys) == 0 {
			d.Set[name] = stored
			continue
		}
		c, err := s.sealer.open(name, stored)
		if err != nil {
			// It could not be decrypted where it was, nor can it elsewhere.
			s.m.undecodable(ctx, s.token.id, name, err)
			continue
		}
		if d.Set[name], err = to.seal(name, c.value, c.schema, false); err != nil {
			return err
		}
	}
	return nil
}

// create begins the session of t, with d and the changes.
func (s *Session) create(ctx context.Context, t token, d Delta, newMeta meta) error {
	o := &s.m.opts
	sealer := s.m.vault.forSession(t.id)
	d.ID, d.Digest, d.Create = t.id, t.digest, true
	d.IdleTimeout, d.AbsoluteTimeout = o.IdleTimeout, o.AbsoluteTimeout
	if s.idle > 0 {
		d.IdleTimeout, d.AbsoluteTimeout = s.idle, s.absolute
	}
	if err := s.seal(&d, &sealer); err != nil {
		return err
	}
	d.Delete = nil // there is nothing to delete
	d.MaxBytes = o.MaxBytes
	if newMeta != (meta{}) {
		var err error
		if d.Meta, err = sealMeta(&sealer, newMeta); err != nil {
			return err
		}
	}
	res, err := s.m.store.Commit(ctx, d)
	if err == nil {
		err = res.err()
	}
	if err != nil {
		return fmt.Errorf("session: could not save: %w", err)
	}
	s.rec, s.opened = Record{State: Current, Owner: d.Owner}, nil
	s.stored, s.token, s.sealer, s.send = true, t, sealer, true
	s.written(d, res)
	s.meta, s.pending = newMeta, pending{}
	s.m.happened(ctx, Event{Kind: Created, ID: t.id, User: newMeta.User})
	for _, id := range res.Evicted {
		s.m.forget(id)
		s.m.happened(ctx, Event{Kind: Revoked, ID: id, User: newMeta.User})
	}
	return nil
}

// seal adds the changes to d.
func (s *Session) seal(d *Delta, sealer *sealer) error {
	if d.Set == nil && s.changesAsStored() {
		d.Set = s.changes
		d.MaxBytes = s.m.opts.MaxBytes
		return nil
	}
	if d.Set == nil && len(s.changes) > 0 {
		d.Set = make(map[string][]byte, len(s.changes))
	}
	for name, value := range s.changes {
		switch {
		case value == nil:
			delete(d.Set, name)
			d.Delete = append(d.Delete, name)
		case strings.HasPrefix(name, setAside):
			d.Set[name] = value // as it was stored
		default:
			sealed, err := sealer.seal(name, value, s.schemaOf(name), false)
			if err != nil {
				return fmt.Errorf("session: the value %q cannot be encrypted: %w", name, err)
			}
			d.Set[name] = sealed
		}
	}
	if len(d.Set) > 0 {
		// Without Set the session shrinks, which is right at any size.
		d.MaxBytes = s.m.opts.MaxBytes
	}
	return nil
}

// changesAsStored reports whether what has changed are values, which the store gets as
// they are.
func (s *Session) changesAsStored() bool {
	if len(s.changes) == 0 || len(s.m.vault.keys) > 0 || s.m.opts.Schema > 0 {
		return false
	}
	for _, value := range s.changes {
		if value == nil || mistakable(value) {
			return false
		}
	}
	return true
}

// schemaOf returns the schema version that a value is written in.
func (s *Session) schemaOf(name string) int {
	if strings.HasPrefix(name, reserved) {
		return 0
	}
	return s.m.opts.Schema
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
	case TooMany:
		return ErrTooManySessions
	case Conflict:
		return ErrConflict
	case Exists:
		return errors.New("the store has a session of a newly drawn id; is another program using its keys?")
	}
	return fmt.Errorf("the store answered with the unknown outcome %d", r.Outcome)
}
