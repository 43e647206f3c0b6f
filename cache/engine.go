package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Engine computes what a Store does not have, each key once at a time in the
// whole cluster. It is safe for concurrent use.
type Engine struct {
	store        Store
	locker       Locker // nil: this process only
	leaseTTL     time.Duration
	waitTimeout  time.Duration
	storeTimeout time.Duration
	logger       *slog.Logger
	flights      flights
	tokens       atomic.Uint64 // the last one given out without a locker
	asked        atomic.Uint64 // calls of Do, counted; see finding.asOf
}

// Options are the options of an Engine. The zero value of a field means its
// default.
type Options struct {
	// Locker lets one process of all that share the store compute a key.
	// Exactly those processes that share the store are to share it. Nil: the
	// processes do not know of one another, and each computes for itself.
	Locker Locker

	// LeaseTTL is how long the lease of a process that dies while it computes
	// keeps the others waiting. Default 2 s, at least 100 ms. A process that
	// lives renews its lease for as long as it computes.
	LeaseTTL time.Duration

	// WaitTimeout is how long a caller waits for what another one computes
	// before it computes for itself. Default 10 s.
	WaitTimeout time.Duration

	// StoreTimeout bounds every step that a caller takes in the store or with
	// the locker, if they obey a context's deadline; a go-redis client does
	// with ContextTimeoutEnabled. Default 500 ms.
	StoreTimeout time.Duration

	// Logger gets a line when the store or the locker fails. Default
	// slog.Default().
	Logger *slog.Logger
}

const (
	defaultLeaseTTL     = 2 * time.Second
	minLeaseTTL         = 100 * time.Millisecond
	defaultWaitTimeout  = 10 * time.Second
	defaultStoreTimeout = 500 * time.Millisecond

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
	if store == nil {
		faults = append(faults, errors.New("cache: the store is nil; pass NewMemoryStore(nil) or rediscache.New(client, nil)"))
	}
	e := &Engine{
		store:        store,
		locker:       o.Locker,
		leaseTTL:     defaulted(o.LeaseTTL, defaultLeaseTTL),
		waitTimeout:  defaulted(o.WaitTimeout, defaultWaitTimeout),
		storeTimeout: defaulted(o.StoreTimeout, defaultStoreTimeout),
		logger:       o.Logger,
	}
	if e.logger == nil {
		e.logger = slog.Default()
	}
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

// Source says where a Result came from.
type Source uint8

const (
	// Hit: the store had it.
	Hit Source = iota + 1
	// Waited: another caller, here or on another server, computed it while
	// this one waited.
	Waited
	// Loaded: this caller computed it.
	Loaded
)

// Result is what Do found or computed.
type Result struct {
	Entry  Entry
	Source Source
	// Stored reports, for what was Loaded, whether the store has taken it.
	Stored bool
}

// Do returns the entry under key, or computes it by load, which at most one
// caller in the cluster does at a time; the others wait and get the same. An
// entry that is found with Kind Uncacheable means that the caller is to compute
// for itself, without Do.
//
// The error is load's own, or the cause of ctx's end. Trouble with the store is
// not an error: it is logged, and load runs, at most once at a time in this
// process. If load panics, so does Do.
func (e *Engine) Do(ctx context.Context, key string, load Load) (Result, error) {
	asked := e.asked.Add(1)
	patience := time.NewTimer(e.waitTimeout)
	defer patience.Stop()
	for waited := false; ; {
		f, leads := e.flights.join(key)
		if leads {
			result, err := e.lead(ctx, f, load, patience.C)
			if waited && result.Source == Hit {
				result.Source = Waited
			}
			return result, err
		}
		select {
		case <-f.done:
			switch {
			case !f.shared || f.found.asOf < asked:
				waited = waited || !f.found.hit
			case f.found.hit && !waited:
				return Result{Entry: f.found.entry, Source: Hit}, nil
			default:
				return Result{Entry: f.found.entry, Source: Waited}, nil
			}
		case <-patience.C:
			return e.loadAlone(ctx, nil, load)
		case <-ctx.Done():
			return Result{}, ended(ctx)
		}
	}
}

// Get returns the entry under key, and whether there is one, and computes
// nothing. The error is the store's, and has been logged.
func (e *Engine) Get(ctx context.Context, key string) (Entry, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, e.storeTimeout)
	defer cancel()
	entry, ok, err := e.store.Get(ctx, key)
	if err != nil {
		return Entry{}, false, e.trouble(ctx, "read", key, err)
	}
	return entry, ok, nil
}

// Put stores entry under a key that nobody else fills, such as one that has
// just been made up. It does not replace an entry that is there.
func (e *Engine) Put(ctx context.Context, key string, entry Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.storeTimeout)
	defer cancel()
	token := e.token()
	b, err := e.store.Begin(ctx, key, token, e.storeTimeout)
	if err == nil && b.Outcome == Begun {
		_, err = e.store.Fill(ctx, key, token, entry)
	}
	if err != nil {
		return e.trouble(ctx, "store", key, err)
	}
	return nil
}

// Purge removes the entry under key everywhere. A computation of it that has
// begun is not stored any more, and whoever asks after the purge does not get
// what it brings.
func (e *Engine) Purge(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, e.storeTimeout)
	defer cancel()
	if err := e.store.Purge(ctx, key); err != nil {
		return fmt.Errorf("cache: purge: %w", err)
	}
	return nil
}

// trouble logs what the store or the locker failed at, and returns err. A
// caller that went away is not their fault. The key itself, which may hold what
// belongs into no log, is named by its lease.
func (e *Engine) trouble(ctx context.Context, doing, key string, err error) error {
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		e.logger.WarnContext(ctx, "cache: the store fails, computing without it", "step", doing, "lease", e.store.LeaseName(key), "error", err)
	}
	return err
}
