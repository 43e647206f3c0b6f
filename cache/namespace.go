package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Namespace holds values of one type under one Policy. Its keys are its own: they
// begin with its name. It is safe for concurrent use.
//
// Values are shared by all callers of a process that ask for the same key. They
// are read-only.
type Namespace[V any] struct {
	engine *Engine
	prefix string
	policy Policy
	codec  Codec[V]
}

// A Loader gets the value under key from the source: a database, a service, a
// computation. An error that is ErrNotFound says that there is none.
//
// ctx has the values of the context of the caller that came first. It ends after
// the policy's LoadTimeout, and when no caller of this process waits any more.
// AddTags and SetTTL take it.
type Loader[V any] func(ctx context.Context, key string) (V, error)

// ErrNotFound is what a Loader returns, as it is or wrapped, if the source has
// nothing under the key. Get returns it then, from the cache also, for the
// policy's NegativeTTL.
var ErrNotFound = errors.New("cache: the source has nothing under this key")

// ErrLoadTimeout is the error of a load that took longer than the policy's
// LoadTimeout. It is context.DeadlineExceeded, too.
var ErrLoadTimeout = fmt.Errorf("cache: the load took longer than LoadTimeout: %w", context.DeadlineExceeded)

// ErrNotPurged is the error of a Put whose source was written, or may have been,
// while the cache could not be told: until the TTL of what is cached is over,
// others may get the old value. Delete the key when the store is back.
var ErrNotPurged = errors.New("cache: the source was written, but what is cached could not be replaced")

// PanicError is the error of a load that panicked.
type PanicError struct {
	// Value is what the load panicked with.
	Value any
	// Stack is where.
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("cache: the load panicked: %v", e.Value) }

// For returns the namespace called name on engine, with the values' DefaultCodec. A
// name is letters, digits, '-', '_' and '.', and begins with a letter. Two programs, or two parts of one, that use the same name on the same store
// share its values. All that is wrong with the arguments is reported in one error.
func For[V any](engine *Engine, name string, p Policy) (*Namespace[V], error) {
	return ForCodec(engine, name, p, DefaultCodec[V]())
}

// ForCodec is like For, with a codec of the caller's own.
func ForCodec[V any](engine *Engine, name string, p Policy, codec Codec[V]) (*Namespace[V], error) {
	faults := []error{p.validate()}
	if engine == nil {
		faults = append(faults, errors.New("cache: the engine is nil; make one by New"))
	}
	if !nameIsValid(name) {
		faults = append(faults, fmt.Errorf("cache: the name of the namespace is %q, it must be letters, digits, '-', '_' and '.', and begin with a letter", name))
	}
	if codec == nil {
		faults = append(faults, errors.New("cache: the codec is nil; DefaultCodec is one"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	p.LoadTimeout = defaulted(p.LoadTimeout, defaultLoadTimeout)
	p.WaitTimeout = defaulted(p.WaitTimeout, engine.waitTimeout)
	p.Backoff = defaulted(p.Backoff, defaultBackoff)
	p.WriteTimeout = defaulted(p.WriteTimeout, defaultWriteTimeout)
	return &Namespace[V]{engine: engine, prefix: name + ":", policy: p, codec: codec}, nil
}

// nameIsValid reports that no key of another name can begin with name and a colon,
// nor one of a response.
func nameIsValid(name string) bool {
	for i, c := range name {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789-_.", c)) {
			return false
		}
	}
	return name != ""
}

// Get returns the value under key, from the cache or by load (cache-aside). Of all
// callers in the cluster that miss it together one loads; the others get what it
// brings. A caller stops waiting when ctx ends; the load goes on for the others.
//
// The error is the load's, as it is, if it runs in this process; ErrLoadFailed if
// another one's was waited for; ErrWaitTimeout; or the cause of ctx's end. Trouble
// with the store is no error.
func (n *Namespace[V]) Get(ctx context.Context, key string, load Loader[V]) (V, error) {
	full := n.prefix + key
	if entry, ok := n.engine.store.Peek(full); ok {
		v := n.judge(entry)
		if v == useAndRefresh {
			n.engine.refresh(ctx, n.job(key, n.contained(key, load)), entry)
		}
		if v >= useAndRefresh {
			n.engine.hit(ctx, full, entry)
			return n.value(entry)
		}
	}
	return n.get(ctx, n.job(key, n.contained(key, load)))
}

func (n *Namespace[V]) get(ctx context.Context, j *job) (V, error) {
	result, err := n.engine.do(ctx, j)
	if err != nil {
		var none V
		return none, err
	}
	if result.Source == Hit {
		n.engine.hit(ctx, j.key, result.Entry)
	}
	return n.value(result.Entry)
}

func (n *Namespace[V]) job(key string, load Load) *job {
	return &job{
		key: n.prefix + key, load: load, judge: n.judge, detached: true,
		wait: n.policy.WaitTimeout, giveUp: n.policy.GiveUp, soft: n.policy.SoftLoadTimeout, backoff: n.policy.Backoff,
	}
}

// Put writes value to the source by write, and stores it when that has succeeded
// (write-through). What was loaded before, and loads that have begun, cannot
// replace it. If two Puts of a key overlap, or a purge comes in between, nothing is
// stored, because it is not known which of them the source has: the next Get loads.
//
// A store that hangs holds a Put up for StoreTimeout before the write, and for a
// second after it.
//
// The error is write's, as it is; nothing is cached under key then, because what
// became of the source is not known. Or it is ErrNotPurged. AddTags and SetTTL take
// the context that write gets.
func (n *Namespace[V]) Put(ctx context.Context, key string, value V, write func(ctx context.Context, key string, value V) error) (err error) {
	data, err := n.codec.Encode(value)
	if err != nil {
		return fmt.Errorf("cache: put: encode: %w", err)
	}
	e := n.engine
	ctx, added := withAdditions(ctx)
	ticket, beginErr := e.beginWrite(ctx, n.prefix+key, n.policy.WriteTimeout)
	var entry Entry // without a TTL: what is cached goes
	// Deferred: also if write panics.
	defer func() {
		endErr := e.endWrite(ctx, n.prefix+key, ticket, beginErr == nil, entry)
		if endErr != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", ErrNotPurged, endErr))
		}
	}()
	if err := write(ctx, key, value); err != nil {
		return err
	}
	entry = n.entry(Value, data, added)
	return nil
}

// Delete removes the value under each key from the cache, on all servers. Loads of
// it that have begun are not stored.
func (n *Namespace[V]) Delete(ctx context.Context, keys ...string) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = n.prefix + key
	}
	return n.engine.Purge(ctx, full...)
}

// DeletePrefix removes the values whose keys begin with prefix; all values of the
// namespace if it is empty. See Engine.PurgePrefix.
func (n *Namespace[V]) DeletePrefix(ctx context.Context, prefix string) error {
	return n.engine.PurgePrefix(ctx, n.prefix+prefix)
}

// Refresh loads the value under key anew, whatever is cached, and stores it. Until
// then, and if loading fails, others get what there is as a stale value, if the
// policy lets them. Within Backoff of a failure it returns that failure.
func (n *Namespace[V]) Refresh(ctx context.Context, key string, load Loader[V]) (V, error) {
	// If it fails the store is away, and what is loaded here helps this caller.
	_ = n.engine.SoftPurge(ctx, n.prefix+key)
	j := n.job(key, n.contained(key, load))
	j.lane = "refresh "
	j.judge = func(e Entry) verdict {
		if n.judge(e) == reject || e.TTL <= 0 {
			return reject
		}
		return use
	}
	return n.get(ctx, j)
}

// judge says what to do with an entry. One that cannot be decoded is as good as
// none.
func (n *Namespace[V]) judge(e Entry) verdict {
	if e.Kind == Uncacheable || e.Schema != n.policy.Schema {
		return reject
	}
	v := n.policy.judge(e)
	if v != reject && e.Kind == Value {
		if _, err := n.value(e); err != nil {
			return reject
		}
	}
	return v
}

// decoded is a value in a Memo.
type decoded[V any] struct{ value V }

// value returns the value of an entry.
func (n *Namespace[V]) value(e Entry) (v V, err error) {
	if e.Kind == Negative {
		return v, ErrNotFound
	}
	if kept, ok := e.Memo.Load().(decoded[V]); ok {
		return kept.value, nil
	}
	// It runs in goroutines of the engine's own, where a panic would end the process.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cache: decode: %w", &PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	if v, err = n.codec.Decode(e.Data); err != nil {
		return v, fmt.Errorf("cache: decode: %w", err)
	}
	e.Memo.Store(decoded[V]{v})
	return v, nil
}

func (n *Namespace[V]) entry(kind Kind, data []byte, added *additions) Entry {
	added.mu.Lock()
	defer added.mu.Unlock()
	ttl := n.policy.TTL
	if added.ttl != nil {
		ttl = *added.ttl
	}
	e := Entry{Kind: kind, Data: data, TTL: n.policy.lifetime(ttl), Schema: n.policy.Schema, Tags: added.tags}
	if kind == Negative {
		e.TTL = n.policy.lifetime(n.policy.NegativeTTL)
	} else if ttl > 0 {
		e.StaleFor = max(n.policy.StaleWhileRevalidate, n.policy.StaleIfError)
	}
	return e
}

// contained makes a Load of a Loader.
func (n *Namespace[V]) contained(key string, load Loader[V]) Load {
	return contained(n.policy.LoadTimeout, func(ctx context.Context, _ *Loading) (Entry, error) {
		return n.loaded(ctx, key, load)
	})
}

// contained makes a Load out of another one: it does not panic, and ends with its
// context or after timeout even if that one does not.
func contained(timeout time.Duration, load Load) Load {
	return func(ctx context.Context, l *Loading) (Entry, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrLoadTimeout)
		defer cancel()
		type outcome struct {
			entry Entry
			err   error
		}
		done := make(chan outcome, 1)
		go func() {
			o := outcome{err: errLoadExited}
			defer func() {
				if p := recover(); p != nil {
					o = outcome{err: &PanicError{Value: p, Stack: debug.Stack()}}
				}
				done <- o
			}()
			o.entry, o.err = load(ctx, l)
		}()
		select {
		case o := <-done:
			if deadline, _ := ctx.Deadline(); errors.Is(o.err, context.DeadlineExceeded) && !time.Now().Before(deadline) {
				o.err = errors.Join(ErrLoadTimeout, o.err) // the load has noticed first
			}
			return o.entry, o.err
		case <-ctx.Done():
			return Entry{}, context.Cause(ctx)
		}
	}
}

// errLoadExited is the error of a load that called runtime.Goexit.
var errLoadExited = errors.New("cache: the load has ended its goroutine")

// loaded runs a Loader and encodes its value.
func (n *Namespace[V]) loaded(ctx context.Context, key string, load Loader[V]) (Entry, error) {
	ctx, added := withAdditions(ctx)
	v, err := load(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound) && n.policy.NegativeTTL > 0:
		return n.entry(Negative, nil, added), nil
	case err != nil:
		return Entry{}, err
	}
	data, err := n.codec.Encode(v)
	if err != nil {
		return Entry{}, fmt.Errorf("cache: encode: %w", err)
	}
	e := n.entry(Value, data, added)
	e.Memo = new(Memo)
	e.Memo.Store(decoded[V]{v})
	return e, nil
}

// additions are what a load or a write says about its value.
type additions struct {
	mu   sync.Mutex
	tags []string
	ttl  *time.Duration
}

type additionsKey struct{}

func withAdditions(ctx context.Context) (context.Context, *additions) {
	a := new(additions)
	return context.WithValue(ctx, additionsKey{}, a), a
}

// AddTags gives tags, by which it can be purged, to the value that is being loaded
// or written. ctx is the one that a Loader, or the write of a Put, has got; with any
// other one AddTags does nothing.
func AddTags(ctx context.Context, tags ...string) {
	if a, ok := ctx.Value(additionsKey{}).(*additions); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tags = append(a.tags, tags...)
	}
}

// SetTTL replaces the policy's TTL for the value that is being loaded or written;
// zero or less means that it is not kept. ErrNotFound is kept for NegativeTTL all
// the same. ctx is as for AddTags.
func SetTTL(ctx context.Context, ttl time.Duration) {
	if a, ok := ctx.Value(additionsKey{}).(*additions); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ttl = &ttl
	}
}
