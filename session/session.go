package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	// ErrGone means that the session ended while the request was under way:
	// by Destroy, by Revoke, by a timeout, or because its token was renewed.
	// Nothing of the change was stored, and nothing of the session came back.
	ErrGone = errors.New("session: the session has ended")
	// ErrTooLarge means that the session would grow beyond Options.MaxBytes.
	// What is stored stays as it was.
	ErrTooLarge = errors.New("session: the session is too large")
	// ErrTooManySessions means that the user has Options.MaxPerUser sessions
	// already. Nobody was logged in.
	ErrTooManySessions = errors.New("session: the user has too many sessions")
	// ErrConflict means that others changed the value over and over while an
	// Update was trying to.
	ErrConflict = errors.New("session: others keep changing the value")
	// ErrUnavailable means that the store could not be asked. It comes with
	// the store's own error.
	ErrUnavailable = errors.New("session: the store is not available")
	// ErrNoSession means that there is no session in the context. Put
	// Manager.Handler around the handler, and pass the request's context.
	ErrNoSession = errors.New("session: no session in the context; put Manager.Handler around this handler, " +
		"and pass the request's context (in gin c.Request.Context(), not c)")

	errTooLate = errors.New("session: too late, the header has been sent; use the session, and log in or begin one, before the first write")
)

// A Session is the session of one request. The first use asks the store for it, and
// again if a value is wanted which the store has left out because it is long; all values
// are as of that second time from then on. Changes are kept until they are committed
// together, before the response's header goes out. It is safe for concurrent use within its request.
//
// When the store cannot be asked, what happens is up to the route; see IfDown.
// In no case is anything saved: a value that could not be read is never
// overwritten by what a handler makes of its absence.
//
// The methods of a nil Session return ErrNoSession.
type Session struct {
	m         *Manager
	presented []string  // what the client sent as tokens,
	few       [1]string // and where that is in most cases
	fields    [2]string // and where those are that mark a response
	request   *http.Request

	mu        sync.Mutex
	touched   bool  // some method was called: the response depends on the session
	headerOut bool  // no token can be handed out any more
	upgrading bool  // it may be that none gets out, although it can be handed out
	shareable bool  // the header went out before the first use
	loaded    bool  // the store was asked, with or without success
	destroyed bool  // by this request
	hasToken  bool  // the client has a token of ours, good or not
	send      bool  // the client has to be told the token
	err       error // why the session cannot be used any more
	ifDown    policy
	down      error // why nothing can be changed, though it can be read

	// The session as it is in the store, if stored.
	stored bool
	token  token
	rec    Record
	readAt time.Time // when rec was read, by this process's clock
	meta   meta
	sealer sealer
	opened map[string]content // values that were decrypted
	bad    map[string]bool    // values that could not be decoded

	pending
}

// pending is what the next commit changes.
type pending struct {
	changes        map[string][]byte // encoded, but not sealed; nil deletes
	settled        map[string][]byte // what was set to what it was, while something is left out
	login          *meta             // who logs in
	renew          bool
	idle, absolute time.Duration // new timeouts, if not zero
	persist        bool
}

// reserved begins the names that are not the program's own.
const reserved = "\x00"

// A value of the program that could not be decoded is kept under this and its
// name when another takes its place.
const setAside = reserved + "aside" + reserved

func checkName(name string) error {
	if strings.HasPrefix(name, reserved) {
		return fmt.Errorf("session: the name %q begins with a zero byte, which is reserved", name)
	}
	return nil
}

// Get decodes the value called name into v, a pointer, and reports whether
// there is one.
//
// A value that cannot be decoded is as good as none: it is reported to
// Options.Observe and the log, and kept when another is set in its place, and
// the session lives on.
func (s *Session) Get(ctx context.Context, name string, v any) (bool, error) {
	return s.get(ctx, name, v, nil)
}

// get is Get with the codec of a Key, nil for the Manager's.
func (s *Session) get(ctx context.Context, name string, v any, codec Codec) (bool, error) {
	if err := checkTarget(name, v); err != nil {
		return false, err
	}
	if err := s.lock(ctx, false); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	return s.decode(ctx, name, v, codec)
}

// tooLate is for what needs a header that has been sent. It is logged, as a handler that has
// answered already often looks at no error any more.
func (s *Session) tooLate(ctx context.Context) error {
	s.m.log(ctx, slog.LevelError, "session: a login, or the first use of a session, came after the header", s.token.id, errTooLate)
	return errTooLate
}

// checkTarget tells a mistake of the program from a value that cannot be decoded.
func checkTarget(name string, v any) error {
	if p := reflect.ValueOf(v); p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("session: the value %q is to be decoded into a %T, which must be a pointer, and not nil", name, v)
	}
	return nil
}

func (s *Session) decode(ctx context.Context, name string, v any, codec Codec) (found bool, err error) {
	if _, changed := s.changes[name]; !changed {
		if err := s.fetch(ctx, name); err != nil {
			return false, err
		}
	}
	codec = s.codec(codec)
	if c, ok := codec.(jsonCodec); ok && c.plainText(s.asStored(name), v) {
		return true, nil
	}
	data, ok := s.value(ctx, name)
	if !ok {
		return false, nil
	}
	if err := codec.Unmarshal(data, v); err != nil {
		s.spoilt(ctx, name, err)
		return false, nil
	}
	return true, nil
}

// spoilt notes that the value called name could not be decoded. s.mu is locked.
func (s *Session) spoilt(ctx context.Context, name string, err error) {
	if _, changed := s.changes[name]; !changed {
		if s.bad == nil {
			s.bad = make(map[string]bool)
		}
		s.bad[name] = true
	}
	s.m.undecodable(ctx, s.token.id, name, err)
}

func (s *Session) codec(codec Codec) Codec {
	if codec != nil {
		return codec
	}
	return s.m.opts.Codec
}

// Set stores v under name, encoded by Options.Codec, which is JSON by default: it
// loses unexported fields, and what was a struct in an any comes back as a map. A
// value equal to what this request has read is not written, unless the header of the
// response is out: a long answer may have read it long ago. The error is ErrTooLarge where
// the session would become so. After that, and after an error of the encoding, the session
// can be used on, and is saved without the value.
func (s *Session) Set(ctx context.Context, name string, v any) error {
	return s.set(ctx, name, v, nil)
}

func (s *Session) set(ctx context.Context, name string, v any, codec Codec) error {
	if s == nil {
		return ErrNoSession
	}
	if err := checkName(name); err != nil {
		return err
	}
	data, err := s.codec(codec).Marshal(v)
	if err != nil {
		return fmt.Errorf("session: the value %q cannot be encoded: %w", name, err)
	}
	if data == nil {
		data = []byte{}
	}
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	return s.put(ctx, name, data)
}

// put makes data the value called name, with the next commit.
func (s *Session) put(ctx context.Context, name string, data []byte) error {
	if s.headerOut && !s.stored {
		return s.tooLate(ctx)
	}
	if err := s.fetch(ctx, name); err != nil {
		return err
	}
	old, stored := s.rec.Values.Get(name)
	if stored && !s.dropped() {
		c, err := s.open(name)
		switch {
		case err == nil && !s.headerOut && !c.aged && c.schema == s.schemaOf(name) && bytes.Equal(c.value, data):
			delete(s.changes, name)
			s.settle(name, data)
			return nil
		case err != nil || s.bad[name]:
			if s.hasRoomAside(name, []byte(old), data) {
				s.change(setAside+name, []byte(old))
			}
		}
	}
	if size := s.sizeWith(name, data); size > s.m.opts.MaxBytes {
		return fmt.Errorf("%w: %d bytes with the value %q, of %d", ErrTooLarge, size, name, s.m.opts.MaxBytes)
	}
	s.change(name, data)
	return nil
}

// Delete removes the value called name, if there is one.
func (s *Session) Delete(ctx context.Context, name string) error {
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.remove(name)
	return nil
}

func (s *Session) remove(name string) {
	if _, ok := s.rec.Values.Get(name); ok || s.headerOut && s.stored { // by now somebody else may have set it
		s.change(name, nil)
	} else {
		delete(s.changes, name)
		s.settle(name, nil)
	}
}

// Pop is Get, and Delete if it has found a value. Of two requests that overlap
// both may get it.
func (s *Session) Pop(ctx context.Context, name string, v any) (bool, error) {
	return s.pop(ctx, name, v, nil)
}

func (s *Session) pop(ctx context.Context, name string, v any, codec Codec) (bool, error) {
	if err := checkTarget(name, v); err != nil {
		return false, err
	}
	if err := s.lock(ctx, true); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	found, err := s.decode(ctx, name, v, codec)
	if found {
		s.remove(name)
	}
	return found, err
}

// Keys returns the names of all values, in ascending order.
func (s *Session) Keys(ctx context.Context) ([]string, error) {
	if err := s.lock(ctx, false); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	return s.names(func(name string) bool { return !strings.HasPrefix(name, reserved) }), nil
}

func (s *Session) names(wanted func(name string) bool) []string {
	var names []string
	if !s.dropped() {
		for _, e := range s.rec.Values {
			if _, changed := s.changes[e.Name]; !changed && wanted(e.Name) {
				names = append(names, e.Name)
			}
		}
	}
	for name, value := range s.changes {
		if value != nil && wanted(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// lock begins an operation. It returns with s locked and loaded, or not locked
// with the error.
func (s *Session) lock(ctx context.Context, write bool) error {
	if s == nil {
		return ErrNoSession
	}
	s.mu.Lock()
	locked := false
	defer func() { // also if the store, or the program's Observe or Logger, panics
		if !locked {
			s.mu.Unlock()
		}
	}()
	err := s.ready(ctx, write)
	locked = err == nil
	return err
}

func (s *Session) ready(ctx context.Context, write bool) error {
	// A first use after the header would make a response depend on the session
	// that was announced without Cache-Control: private. A cache between here
	// and the client may have begun to share it.
	if s.shareable {
		return s.tooLate(ctx)
	}
	s.touched = true
	if !s.loaded {
		s.load(ctx)
		s.loaded = true
	}
	switch {
	case s.err != nil:
		return s.err
	case write && s.down != nil:
		s.err = s.down // and the response must not tell of success
		return s.err
	case write && s.destroyed:
		return ErrGone
	}
	return nil
}

// load asks the store for the first of the client's tokens that it knows.
// Without one the session is a new one, to be stored under a token of our own
// making: what the client came with is never adopted.
func (s *Session) load(ctx context.Context) {
	var reused []token
	defer func() {
		for _, t := range reused {
			// Who has the present token as well has kept both, for two paths.
			if !s.stored || s.token.id != t.id {
				s.m.stolen(ctx, t.id)
			}
		}
	}()
	var few [1]token
	for _, t := range s.m.parse(few[:0], s.presented) {
		rec, err := s.m.read(ctx, t)
		if err != nil {
			s.loadFailed(t, fmt.Errorf("session: could not load: %w", err))
			return
		}
		switch rec.State {
		case Current, Superseded:
			if s.adopt(ctx, t, rec) {
				return
			}
		case Reused:
			reused = append(reused, t)
		default:
			s.m.happened(ctx, Event{Kind: Expired, ID: t.id})
		}
	}
}

// read reads the session of t, without what is long and perhaps not wanted, if it can be
// told without that whether the values can be read, and if nothing is kept of them for
// when the store is away.
func (m *Manager) read(ctx context.Context, t token) (Record, error) {
	if len(m.vault.keys) > 0 || m.recent != nil {
		return m.store.LoadAll(ctx, t.id, t.digest, false)
	}
	return m.store.Load(ctx, t.id, t.digest)
}

// adopt makes rec, which t is the token of, the request's session, if it can be
// read.
func (s *Session) adopt(ctx context.Context, t token, rec Record) bool {
	sealer := s.m.vault.forSession(t.id)
	meta, err := openMeta(&sealer, rec.Meta)
	for _, e := range rec.Values {
		if err != nil {
			break
		}
		if !strings.HasPrefix(e.Name, setAside) { // nobody reads those
			err = s.m.vault.readable(e.Data)
		}
	}
	if err != nil {
		s.m.undecodable(ctx, t.id, "", err)
		return false
	}
	s.stored, s.token, s.rec, s.meta, s.sealer, s.readAt = true, t, rec, meta, sealer, time.Now()
	s.m.remember(t, rec)
	if rec.State == Superseded && len(rec.Handover) > 0 {
		if next, err := s.m.tokens.takeOver(t, rec.Handover); err == nil {
			s.token, s.send = next, true
		}
	}
	return true
}

// fail makes err final for this request, after a change was lost.
func (s *Session) fail(err error) error {
	s.err = err
	return err
}

// dropped reports whether the stored values are not those of who logs in now.
func (s *Session) dropped() bool {
	return s.login != nil && s.meta.User != "" && s.login.User != s.meta.User
}

// value returns the encoded value called name.
func (s *Session) value(ctx context.Context, name string) ([]byte, bool) {
	if b, ok := s.changes[name]; ok {
		return b, b != nil
	}
	if _, ok := s.rec.Values.Get(name); !ok || s.dropped() {
		return nil, false
	}
	c, err := s.open(name)
	if err == nil && c.schema < s.m.opts.Schema && s.m.opts.Migrate != nil && !strings.HasPrefix(name, reserved) {
		c.value, err = s.m.opts.Migrate(name, c.schema, bytes.Clone(c.value))
	}
	if err != nil {
		s.spoilt(ctx, name, err)
		return nil, false
	}
	return c.value, true
}

// asStored returns the encoded value called name if it is what stands in the store: neither
// changed by this request, nor in a frame, nor to be migrated.
func (s *Session) asStored(name string) string {
	if _, changed := s.changes[name]; changed || s.dropped() || len(s.m.vault.keys) > 0 || s.m.opts.Schema > 0 {
		return ""
	}
	stored, _ := s.rec.Values.Get(name)
	return stored // what is in a frame is no JSON
}

// open returns what is stored under name, decrypted.
func (s *Session) open(name string) (content, error) {
	if c, ok := s.opened[name]; ok {
		return c, nil
	}
	stored, _ := s.rec.Values.Get(name)
	c, err := s.sealer.open(name, []byte(stored))
	if err == nil && len(s.m.vault.keys) > 0 {
		if s.opened == nil {
			s.opened = make(map[string]content)
		}
		s.opened[name] = c
	}
	return c, err
}

func (s *Session) change(name string, value []byte) {
	if s.changes == nil {
		s.changes = make(map[string][]byte)
	}
	s.changes[name] = value
}

// written takes over what a commit has written.
func (s *Session) written(d Delta, res Result) {
	if len(d.Set)+len(d.Delete) > 0 {
		s.rec.Values = s.rec.Values.with(d.Set, d.Delete)
	}
	for name := range d.Set {
		delete(s.opened, name)
		delete(s.bad, name)
	}
	s.rec.Version, s.rec.ExpiresIn, s.rec.EndsIn = res.Version, res.ExpiresIn, res.EndsIn
	s.rec.Basis = nil
	s.rec.ReadAt, s.readAt = res.At, time.Now()
	if d.Authenticated {
		s.rec.AuthenticatedAt = res.At
	}
	if d.Create {
		s.rec.CreatedAt = res.At
	}
	if d.IdleTimeout > 0 {
		s.rec.IdleTimeout = d.IdleTimeout
	}
}
