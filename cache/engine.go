package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/herdless/herdless/internal/nils"
	"github.com/sony/gobreaker/v2"
)

// Engine computes what a Store does not have, each key once at a time in the
// whole cluster. It is safe for concurrent use.
type Engine struct {
	store        Store
	listener     Listener // the store, if it is one
	locker       Locker   // nil: this process only
	leaseTTL     time.Duration
	waitTimeout  time.Duration
	storeTimeout time.Duration
	breaker      *gobreaker.CircuitBreaker[struct{}]
	asking       atomic.Int32 // for callers that went away; see askInstead
	logger       *slog.Logger
	warned       atomic.Pointer[time.Time]    // when a failure was logged last
	observe      func(context.Context, Event) // nil: nobody does
	counters     counters
	flights      flights
	refreshes    refreshes
	failures     failures
	tokens       atomic.Uint64 // the last one given out without a locker
	asked        atomic.Uint64 // callers, counted; see finding.asOf
	changes      atomic.Uint64 // purges and writes that have ended, counted
	types        sync.Map      // typeKey to reflect.Type
}

// Options are the options of an Engine. The zero value of a field means its
// default.
type Options struct {
	// Locker lets one process of all that share the store compute a key.
	// Exactly those processes that share the store are to share it. Nil: the
	// processes do not know of one another, and each computes for itself; nor do
	// lanes (see Fetch.Lane) and refreshes in the background within a process, so that
	// one key may be computed in two of them at a time. A Locker on a
	// lock.MemoryStore is enough for those.
	Locker Locker

	// LeaseTTL is how long the lease of a process that dies while it computes
	// keeps the others waiting. Default 500 ms, at least 100 ms. A process
	// that lives renews its lease for as long as it computes; one that stalls
	// for longer than this may see another compute the same.
	LeaseTTL time.Duration

	// WaitTimeout is how long a caller waits for what another one computes
	// before it computes for itself. Default 10 s.
	WaitTimeout time.Duration

	// StoreTimeout is a caller's budget: how long it may be held up by the
	// store and the locker before it computes, or waits for who does, and
	// once more for storing the outcome. It holds if they obey a context's
	// deadline; a go-redis client does with ContextTimeoutEnabled. Default
	// 50 ms. To read or store some MiB takes longer: raise it, or use Blobs.
	//
	// After three failures in a row a circuit breaker keeps everybody from
	// the store. Each second it lets one caller try again. Purges, and the end
	// of a Put, are patient, and not kept back: nobody can do without them.
	StoreTimeout time.Duration

	// Logger gets a line when the store or the locker fails, one in a second at
	// most, and when the circuit breaker opens or closes. Default
	// slog.Default().
	Logger *slog.Logger

	// Observe is told what happens, in the goroutine in which it does, and so
	// must be quick and safe for concurrent use. It must not panic, nor ask
	// for the key that it is told of. Nil: nobody is told.
	Observe func(context.Context, Event)
}

const (
	defaultLeaseTTL     = 500 * time.Millisecond
	minLeaseTTL         = 100 * time.Millisecond
	defaultWaitTimeout  = 10 * time.Second
	defaultStoreTimeout = 50 * time.Millisecond

	// fillTTL is how long a fill may take before it is forgotten, and refused.
	fillTTL = 10 * time.Minute

	// failureTTL is for how long the callers of a key whose load has failed
	// do not queue for it.
	failureTTL = time.Second

	// leaseMargin is added to the time that another holder's lease has left,
	// so that whoever waits for its end does not ask a moment too early.
	leaseMargin = 5 * time.Millisecond
)

// New returns an Engine on store. Nil options mean the defaults. All that
// is wrong with the arguments is reported in one error.
func New(store Store, o *Options) (*Engine, error) {
	if o == nil {
		o = &Options{}
	}
	var faults []error
	if nils.Is(store) {
		faults = append(faults, errors.New("cache: the store is nil; pass NewMemoryStore(nil) or rediscache.New(client, nil)"))
	}
	if o.Locker != nil && nils.Is(o.Locker) {
		faults = append(faults, fmt.Errorf("cache: Options.Locker is a nil %T; leave it out, or pass what lock.New returns", o.Locker))
	}
	e := &Engine{
		store:        store,
		locker:       o.Locker,
		leaseTTL:     defaulted(o.LeaseTTL, defaultLeaseTTL),
		waitTimeout:  defaulted(o.WaitTimeout, defaultWaitTimeout),
		storeTimeout: defaulted(o.StoreTimeout, defaultStoreTimeout),
		logger:       o.Logger,
		observe:      o.Observe,
	}
	e.listener, _ = store.(Listener)
	if e.logger == nil {
		e.logger = slog.Default()
	}
	e.breaker = e.newBreaker()
	if e.leaseTTL < minLeaseTTL {
		faults = append(faults, fmt.Errorf("cache: Options.LeaseTTL is %v, it must be at least %v", e.leaseTTL, minLeaseTTL))
	}
	if e.waitTimeout < 0 {
		faults = append(faults, fmt.Errorf("cache: Options.WaitTimeout is %v, it must not be negative", e.waitTimeout))
	}
	if e.storeTimeout < 0 {
		faults = append(faults, fmt.Errorf("cache: Options.StoreTimeout is %v, it must not be negative", e.storeTimeout))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return e, nil
}

// token returns a fencing token where no locker gives one: larger than all
// before in this process, and than those of others as far as the clocks agree.
func (e *Engine) token() uint64 {
	for {
		last := e.tokens.Load()
		next := max(last+1, uint64(time.Now().UnixMicro()))
		if e.tokens.CompareAndSwap(last, next) {
			return next
		}
	}
}

func defaulted(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// Get returns the entry under key, and whether there is one, and computes
// nothing. It may be stale: see Entry.TTL. The error is the store's, and has been
// logged.
func (e *Engine) Get(ctx context.Context, key string) (Entry, bool, error) {
	if entry, ok := e.store.Peek(key); ok {
		return entry, true, nil
	}
	ctx, cancel := deadline.After(ctx, e.storeTimeout, errBudget)
	defer cancel()
	entry, ok, err := e.read(ctx, key)
	if entry.Damaged {
		e.happened(ctx, Event{Kind: DamageFound, Key: key})
	}
	return entry, ok, err
}

// read asks the store for key. The budget is the caller's.
func (e *Engine) read(ctx context.Context, key string) (entry Entry, ok bool, err error) {
	err = e.step(ctx, "read", key, func() (err error) {
		entry, ok, err = e.store.Get(ctx, key)
		return err
	})
	return entry, ok, err
}

// add stores entry under a key that nobody else fills, as of the given epoch, or the present
// one if that is earlier.
func (e *Engine) add(ctx context.Context, key string, fill Filling, epoch uint64, entry Entry) error {
	ctx, cancel := deadline.After(context.WithoutCancel(ctx), e.storeTimeout, errBudget)
	defer cancel()
	return e.step(ctx, "store", key, func() error {
		b, err := e.store.Begin(ctx, key, fill)
		if err == nil && b.Outcome == Begun {
			b.Ticket.Epoch = min(b.Ticket.Epoch, epoch)
			_, err = e.store.Fill(ctx, key, b.Ticket, entry)
		}
		return err
	})
}

// Purge removes the entry under each key everywhere. Keys are the engine's: for
// those of a Namespace call its Delete. A computation that has begun is not stored
// any more, and whoever asks this process after the purge, or any other one as soon
// as it has heard of it, does not get what it brings.
//
// It takes two seconds at most, and goes on if ctx ends: the client that has
// changed something may have gone. If it fails nothing is certain: call it again.
func (e *Engine) Purge(ctx context.Context, keys ...string) error {
	return e.purge(ctx, Purge{Keys: keys})
}

// PurgeTags removes the entries that have one of the tags, also those whose
// computation has begun, as Purge does.
func (e *Engine) PurgeTags(ctx context.Context, tags ...string) error {
	return e.purge(ctx, Purge{Tags: tags})
}

// PurgePrefix removes the entries whose keys begin with prefix, as Purge does.
// All stores remember a prefix for days: do not make them up per request. An empty
// one is everything.
func (e *Engine) PurgePrefix(ctx context.Context, prefix string) error {
	return e.purge(ctx, Purge{Prefixes: []string{prefix}})
}

// PurgeAll removes everything from the store, as Purge does.
func (e *Engine) PurgeAll(ctx context.Context) error {
	return e.purge(ctx, Purge{All: true})
}

// SoftPurge is like Purge, but leaves entries as stale ones, for those whose
// policy lets them have one while a new value is computed.
func (e *Engine) SoftPurge(ctx context.Context, keys ...string) error {
	return e.purge(ctx, Purge{Keys: keys, Soft: true})
}

// SoftPurgeTags is to PurgeTags what SoftPurge is to Purge.
func (e *Engine) SoftPurgeTags(ctx context.Context, tags ...string) error {
	return e.purge(ctx, Purge{Tags: tags, Soft: true})
}

// SoftPurgePrefix is to PurgePrefix what SoftPurge is to Purge.
func (e *Engine) SoftPurgePrefix(ctx context.Context, prefix string) error {
	return e.purge(ctx, Purge{Prefixes: []string{prefix}, Soft: true})
}

// SoftPurgeAll is to PurgeAll what SoftPurge is to Purge.
func (e *Engine) SoftPurgeAll(ctx context.Context) error {
	return e.purge(ctx, Purge{All: true, Soft: true})
}

// purgeTimeout is how long a purge may take. Unlike a read it cannot be done
// without, so that it is patient, goes on without its caller, and does not ask the
// circuit breaker.
const purgeTimeout = 2 * time.Second

func (e *Engine) purge(ctx context.Context, p Purge) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), purgeTimeout)
	defer cancel()
	began := time.Now()
	err := e.store.Purge(ctx, p)
	e.changes.Add(1) // before anybody can ask who knows of it
	e.happened(ctx, Event{Kind: Purged, Purge: p, Took: time.Since(began), Err: err})
	if err != nil {
		return fmt.Errorf("cache: purge: %w", err)
	}
	return nil
}
