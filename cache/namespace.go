package cache

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/nils"
)

// Namespace holds values of one type under one Policy. Its keys are its own: in the
// engine, in Events and in the store a key is the name, a colon and the key. It is
// safe for concurrent use.
//
// Values are shared by all callers of a process that ask for the same key. They
// are read-only. Those who wait for a load get the loader's own value, later ones
// what the codec has kept of it: with JSON, unexported fields are gone. A nil
// pointer is a value like any other.
type Namespace[V any] struct {
	engine *Engine
	prefix string
	policy Policy
	codec  Codec[V]
}

// A Loader gets the value under key from the source: a database, a service, a
// computation. An error that is ErrNotFound says that there is none.
//
// It runs in a goroutine of its own and serves callers of other requests as well:
// what it returns must depend on key only, not on who asks. ctx has the values of
// the context of the caller that came first; a transaction or a request in it may
// have ended. So no caller may pass a context that is used again for others, as a
// *gin.Context is: pass the request's. ctx ends after the policy's LoadTimeout, and when
// no caller of this process waits any more. AddTags and SetTTL take it. A Loader must not
// Get its own key, which would wait for itself.
type Loader[V any] func(ctx context.Context, key string) (V, error)

// ErrNotFound is what a Loader returns, as it is or wrapped, if the source has
// nothing under the key. Get returns it then, without the wrapping, and for the
// policy's NegativeTTL from the cache also. It is an answer, not a failure: what
// was cached before goes, and no stale value is returned for it.
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

// typeKey names what has one type of values.
type typeKey struct {
	name   string
	schema uint32
}

// For returns the namespace called name on engine, with the values' DefaultCodec. A
// name is letters, digits, '-', '_' and '.', begins with a letter, and belongs to
// one type of values, or to Blobs: another type on the same engine, under the same
// Schema, is an error. Two programs, or two parts of one, that use the same name on
// the same store share its values. All that is wrong with the arguments is reported in
// one error.
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
	if nils.Is(codec) {
		faults = append(faults, errors.New("cache: the codec is nil; DefaultCodec is one"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	of := reflect.TypeFor[V]()
	if had, taken := engine.types.LoadOrStore(typeKey{name, p.Schema}, of); taken && had != of {
		return nil, fmt.Errorf("cache: the namespace %q has values of the type %v, whose bytes would be read as %v: take another name, or another Schema", name, had, of)
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
// The error is ErrNotFound; the load's, as it is, if it runs in this process, also
// for Backoff afterwards; a *PanicError if it panicked; ErrLoadTimeout;
// ErrLoadFailed if another process's load was waited for; ErrWaitTimeout; or the
// cause of ctx's end. Trouble with the store is no error.
func (n *Namespace[V]) Get(ctx context.Context, key string, load Loader[V]) (V, error) {
	full := n.prefix + key
	if entry, ok := n.engine.store.Peek(full); ok {
		v := n.judge(entry)
		if v == UseAndRefresh {
			n.engine.refresh(ctx, n.job(key, n.contained(key, load)), entry)
		}
		if v >= UseAndRefresh {
			n.engine.CountHit(ctx, full, &entry)
			return n.value(entry)
		}
	}
	return n.get(ctx, n.job(key, n.contained(key, load)))
}

func (n *Namespace[V]) get(ctx context.Context, j *job) (V, error) {
	result, err := n.engine.do(ctx, j, nil)
	if err != nil {
		var none V
		return none, err
	}
	if result.Source == Hit {
		n.engine.CountHit(ctx, j.key, &result.Entry)
	}
	return n.value(result.Entry)
}

func (n *Namespace[V]) job(key string, load Load) *job {
	return &job{
		key: n.prefix + key, load: load, judge: n.judge, unreadable: n.unreadable, detached: true,
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
// The value has the tags that write adds, and no others: write is to add those
// that the loader does. AddTags and SetTTL take the context that write gets, which
// is ctx: write has no other deadline, runs in the caller's goroutine, and is called
// also if ctx has ended. If it panics, so does Put.
//
// If value cannot be encoded, write is not called. Otherwise the error is write's, or
// ErrNotPurged, or both joined. If write fails nothing is cached under key, because
// what became of the source is not known.
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

// Delete removes the value under each key from the cache, on all servers, as
// Engine.Purge does. Loads of it that have begun are not stored.
func (n *Namespace[V]) Delete(ctx context.Context, keys ...string) error {
	return n.engine.Purge(ctx, n.full(keys)...)
}

// SoftDelete makes the value under each key stale, as Engine.SoftPurge does.
func (n *Namespace[V]) SoftDelete(ctx context.Context, keys ...string) error {
	return n.engine.SoftPurge(ctx, n.full(keys)...)
}

func (n *Namespace[V]) full(keys []string) []string {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = n.prefix + key
	}
	return full
}

// DeletePrefix removes the values whose keys begin with prefix; all values of the
// namespace if it is empty. See Engine.PurgePrefix.
func (n *Namespace[V]) DeletePrefix(ctx context.Context, prefix string) error {
	return n.engine.PurgePrefix(ctx, n.prefix+prefix)
}

// Refresh makes what is cached under key stale, as SoftDelete does, loads anew and
// stores. It never returns a stale value itself. Others get it until then, and if
// loading fails, if StaleWhileRevalidate or StaleIfError lets them; without either
// they wait for this load. Within Backoff of a failure it returns that failure.
func (n *Namespace[V]) Refresh(ctx context.Context, key string, load Loader[V]) (V, error) {
	// If it fails the store is away, and what is loaded here helps this caller.
	_ = n.engine.SoftPurge(ctx, n.prefix+key)
	j := n.job(key, n.contained(key, load))
	j.lane = "refresh "
	j.judge = func(e Entry) Verdict {
		if n.judge(e) == Reject || e.TTL <= 0 {
			return Reject
		}
		return Use
	}
	return n.get(ctx, j)
}

// judge says what to do with an entry. One that cannot be decoded is as good as
// none.
func (n *Namespace[V]) judge(e Entry) Verdict {
	if e.Kind == Uncacheable || e.Schema != n.policy.Schema {
		return Reject
	}
	if v := n.policy.judge(e); v != Reject && !n.unreadable(e) {
		return v
	}
	return Reject
}

// unreadable reports an entry of another schema, or one that cannot be decoded.
func (n *Namespace[V]) unreadable(e Entry) bool {
	switch {
	case e.Kind == Uncacheable:
		return false // it has no schema
	case e.Schema != n.policy.Schema:
		return true
	case e.Kind == Negative:
		return false
	}
	_, err := n.value(e)
	return err != nil
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
	switch {
	case kind == Negative:
		// For a moment at least, so that it replaces what the source had before.
		e.TTL = max(n.policy.lifetime(n.policy.NegativeTTL), time.Millisecond)
	case len(e.Tags) > maxTags:
		n.engine.logger.Warn("cache: a value is not kept, because it has too many tags", "namespace", strings.TrimSuffix(n.prefix, ":"), "tags", len(e.Tags), "limit", maxTags)
		e.TTL, e.Tags = 0, nil
	case ttl > 0:
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
	case errors.Is(err, ErrNotFound):
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
	of   map[string][]string // more tags of single keys
	ttl  *time.Duration
}

type additionsKey struct{}

func withAdditions(ctx context.Context) (context.Context, *additions) {
	a := new(additions)
	return context.WithValue(ctx, additionsKey{}, a), a
}

// AddTags gives tags, by which Engine.PurgeTags can purge it, to the value that is
// being loaded or written, or in a ManyLoader to all values of the call. ctx is the
// one that a Loader, or the write of a Put, has got; with any other one AddTags does
// nothing.
//
// Tags are the store's, not the namespace's, and compared byte for byte. A value
// with more than 1,000 is not kept. A loader that gets values from another namespace
// does not inherit their tags.
func AddTags(ctx context.Context, tags ...string) {
	if a, ok := ctx.Value(additionsKey{}).(*additions); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tags = append(a.tags, tags...)
	}
}

// AddTagsFor is AddTags for the value under one of the keys of a ManyLoader.
func AddTagsFor(ctx context.Context, key string, tags ...string) {
	if a, ok := ctx.Value(additionsKey{}).(*additions); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.of == nil {
			a.of = make(map[string][]string)
		}
		a.of[key] = append(a.of[key], tags...)
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
