package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"
)

// A Value is a value as it was stored.
type Value struct {
	data   []byte
	codec  Codec
	failed *error
}

// Decode decodes the value into v, a pointer, and reports whether there is one.
// One that cannot be decoded is as good as none; see Session.Get.
func (v Value) Decode(into any) bool {
	if v.data == nil {
		return false
	}
	*v.failed = v.codec.Unmarshal(v.data, into)
	return *v.failed == nil
}

const (
	// maxAttempts is how often an Update tries. With a hundred at once, each of
	// them is overtaken 99 times at most.
	maxAttempts = 1000
	// The pause after an attempt that came too late is a random part of so
	// many times the pause.
	updatePause = time.Millisecond
	maxPauses   = 16
)

// Update replaces the value called name by what fn makes of it, at once, if
// nobody else has changed it meanwhile; if somebody has, fn is called again with
// what is there by then. So no step of a sequence is lost, wherever it comes
// from. If fn returns an error nothing changes and Update returns it. fn must not
// use the session; what it does besides may be done several times.
//
// The error is ErrConflict after very many attempts; ctx may end them sooner. A
// session that is not stored yet is changed like by Set.
//
// If an answer of the store is lost and others change the value at just that time,
// the change may be made twice.
func (s *Session) Update(ctx context.Context, name string, fn func(old Value) (any, error)) error {
	return s.update(ctx, name, fn, nil)
}

func (s *Session) update(ctx context.Context, name string, fn func(old Value) (any, error), codec Codec) error {
	if s == nil {
		return ErrNoSession
	}
	if err := checkName(name); err != nil {
		return err
	}
	codec = s.codec(codec)
	for attempt := range maxAttempts {
		if attempt > 0 {
			if err := pause(ctx, attempt); err != nil {
				return fmt.Errorf("session: %w", errors.Join(err, ErrConflict))
			}
		}
		base, data, err := s.present(ctx, name)
		if err != nil {
			return err
		}
		var failed error
		v, err := fn(Value{bytes.Clone(data), codec, &failed})
		if err != nil {
			return err
		}
		next, err := codec.Marshal(v)
		if err != nil {
			return fmt.Errorf("session: the value %q cannot be encoded: %w", name, err)
		}
		done, err := s.swap(ctx, name, base, data, next, failed)
		if done || err != nil {
			return err
		}
	}
	return ErrConflict
}

// present returns the value called name, as it is stored and as it is encoded, nil if there
// is none.
func (s *Session) present(ctx context.Context, name string) (base, data []byte, err error) {
	if err := s.lock(ctx, true); err != nil {
		return nil, nil, err
	}
	defer s.mu.Unlock()
	if err := s.fetch(ctx, name); err != nil {
		return nil, nil, err
	}
	if stored, seen := s.rec.Values.Get(name); seen && !s.dropped() {
		base = []byte(stored)
	}
	data, _ = s.value(ctx, name)
	return base, data, nil
}

// swap replaces base, which is stored, or data, which this request sees, by next, unless
// it is not what is there. failed says why it could not be decoded, if it could not.
func (s *Session) swap(ctx context.Context, name string, base, data, next []byte, failed error) (done bool, err error) {
	if err := s.lock(ctx, true); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	if failed != nil {
		s.spoilt(ctx, name, failed)
	}
	if _, changed := s.changes[name]; changed || !s.stored || s.dropped() {
		// It is about to be set anyway, and nobody else's.
		if now, _ := s.value(ctx, name); (now == nil) != (data == nil) || !bytes.Equal(now, data) {
			return false, nil // but for another goroutine of this request
		}
		return true, s.put(ctx, name, next)
	}
	if stored, _ := s.rec.Values.Get(name); stored != string(base) {
		return false, nil // by another goroutine of this request
	}
	d := Delta{
		ID: s.token.id, Digest: s.token.digest, MaxBytes: s.m.opts.MaxBytes,
		If: map[string][]byte{name: base}, Set: map[string][]byte{},
	}
	if s.bad[name] && base != nil && s.hasRoomAside(name, base, next) {
		d.Set[setAside+name] = base
	}
	if size := s.sizeWith(name, next); size > s.m.opts.MaxBytes {
		return false, fmt.Errorf("%w: %d bytes with the value %q, of %d", ErrTooLarge, size, name, s.m.opts.MaxBytes)
	}
	d.Set[name], err = s.sealer.seal(name, next, s.m.opts.Schema, true)
	if err != nil {
		return false, fmt.Errorf("session: the value %q cannot be encrypted: %w", name, err)
	}
	res, err := s.m.store.Commit(ctx, d)
	if err == nil && res.Outcome == Conflict {
		s.m.happened(ctx, Event{Kind: Conflicted, ID: s.token.id, Name: name})
		delete(s.opened, name)
		delete(s.bad, name)
		s.rec.Values = s.rec.Values.with(res.Values, []string{name})
		return false, nil
	}
	if err == nil {
		err = res.err()
	}
	switch {
	case errors.Is(err, ErrTooLarge):
		return false, err
	case err != nil:
		s.m.refused(ctx, s.token.id, err)
		return false, s.fail(fmt.Errorf("session: could not save: %w", err))
	}
	s.written(d, res)
	return true, nil
}

func pause(ctx context.Context, attempt int) error {
	longest := updatePause * time.Duration(min(attempt, maxPauses))
	select {
	case <-time.After(mathrand.N(longest)): //nolint:gosec // to spread attempts
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Add adds n to the value called name, a whole number, 0 if there is none, and
// returns the sum. It is an Update: at once, and none of many at the same time is
// lost.
func (s *Session) Add(ctx context.Context, name string, n int64) (sum int64, err error) {
	err = s.update(ctx, name, func(old Value) (any, error) {
		var was int64
		if !old.Decode(&was) {
			was = 0
		}
		sum = was + n
		return sum, nil
	}, nil)
	if err != nil {
		return 0, err
	}
	return sum, nil
}

// A Key names a value of type T in every session. Make one with NewKey, once,
// as a package variable. Its methods use the session of the context and return
// ErrNoSession if there is none.
type Key[T any] struct {
	name  string
	codec Codec
}

// NewKey returns the Key for the values called name. It panics if name begins
// with a zero byte.
func NewKey[T any](name string) Key[T] { return NewKeyWith[T](name, nil) }

// NewKeyWith is NewKey for values with a codec of their own; nil is the
// Manager's.
func NewKeyWith[T any](name string, codec Codec) Key[T] {
	if strings.HasPrefix(name, reserved) {
		panic(fmt.Sprintf("session: the name %q begins with a zero byte, which is reserved", name))
	}
	return Key[T]{name, codec}
}

// Get returns the value, or the zero T if the session has none; see Session.Get.
func (k Key[T]) Get(ctx context.Context) (T, error) {
	v, _, err := k.Lookup(ctx)
	return v, err
}

// Lookup is Get, and reports whether there is a value.
func (k Key[T]) Lookup(ctx context.Context) (T, bool, error) {
	var v, zero T
	found, err := FromContext(ctx).get(ctx, k.name, &v, k.codec)
	if err != nil || !found {
		return zero, false, err
	}
	return v, true, nil
}

// Set stores the value; see Session.Set.
func (k Key[T]) Set(ctx context.Context, v T) error {
	return FromContext(ctx).set(ctx, k.name, v, k.codec)
}

// Delete removes the value, if there is one.
func (k Key[T]) Delete(ctx context.Context) error { return FromContext(ctx).Delete(ctx, k.name) }

// Pop is Get and Delete; see Session.Pop.
func (k Key[T]) Pop(ctx context.Context) (T, error) {
	var v, zero T
	found, err := FromContext(ctx).pop(ctx, k.name, &v, k.codec)
	if err != nil || !found {
		return zero, err
	}
	return v, nil
}

// Update replaces the value by what fn makes of it, the zero T if there is none,
// and returns that; see Session.Update.
func (k Key[T]) Update(ctx context.Context, fn func(old T) (T, error)) (T, error) {
	var next, zero T
	err := FromContext(ctx).update(ctx, k.name, func(old Value) (any, error) {
		var v T
		if !old.Decode(&v) {
			v = zero
		}
		var err error
		next, err = fn(v)
		return next, err
	}, k.codec)
	if err != nil {
		return zero, err
	}
	return next, nil
}
