package cache

import (
	"context"
	"errors"
	"time"
)

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

// Do returns the fresh entry under key, or computes it by load, which at most one
// caller in the cluster does at a time; the others wait and get the same. An
// entry that is found with Kind Uncacheable means that the caller is to compute
// for itself, without Do.
//
// The error is load's own, or the cause of ctx's end. Trouble with the store is
// not an error: it is logged, and load runs, at most once at a time in this
// process. load runs in the caller's goroutine; if it panics, so does Do.
func (e *Engine) Do(ctx context.Context, key string, load Load) (Result, error) {
	result, err := e.do(ctx, &job{key: key, load: load, judge: freshOnly, wait: e.waitTimeout})
	if err == nil && result.Source == Hit {
		e.hit(ctx, key, result.Entry)
	}
	return result, err
}

// hit counts an entry that was found.
func (e *Engine) hit(ctx context.Context, key string, entry Entry) {
	kind := HitFresh
	if entry.TTL <= 0 {
		kind = HitStale
	}
	e.happened(ctx, Event{Kind: kind, Key: key, Local: entry.Local})
}

// verdict says what a caller does with an entry that is found.
type verdict uint8

const (
	// reject: it is as good as none.
	reject verdict = iota
	// fallBack: it is better than nothing, if loading fails or takes long.
	fallBack
	// useAndRefresh: it will do, and a new one is loaded in the background.
	useAndRefresh
	// use: it will do.
	use
)

func freshOnly(e Entry) verdict {
	if e.TTL > 0 {
		return use
	}
	return reject
}

// job is what a caller wants of a key.
type job struct {
	key   string
	load  Load
	judge func(Entry) verdict
	// wait is how long to wait for another one who computes.
	wait time.Duration

	// detached: the job is done in a goroutine of its own, goes on without
	// the caller that began it as long as others wait, and shares its failure
	// with them. load must not panic. Otherwise it is done in the caller's.
	detached bool
	// backoff is, of a detached job, for how long a failure is remembered.
	backoff time.Duration
	// soft is how long to wait while there is a fallback; 0: to the end.
	soft time.Duration
	// giveUp makes waiting for longer than wait an error; else the caller
	// computes for itself then.
	giveUp bool
	// waits is called when the caller begins to wait for what another one
	// computes; nil: nobody wants to know.
	waits func()
	// lane keeps the flights of those apart who want different things of a key.
	// It comes before the key and must not be the beginning of one.
	lane string
	// slots bounds how many jobs store their outcome at a time; nil: nothing.
	slots chan struct{}
	// background: there is no caller. Nobody is waited for.
	background bool
	// alone: the store is not asked.
	alone bool
}

func (j *job) begunToWait() {
	if j.waits != nil {
		j.waits()
	}
}

func (e *Engine) do(ctx context.Context, j *job) (Result, error) {
	asked := e.asked.Add(1)
	began := time.Now()
	w := newWait(j)
	defer w.stop()
	for waited := false; ; {
		f, leads := e.flights.join(j.lane + j.key)
		switch {
		case leads && !j.detached:
			result, err := e.lead(ctx, f, j, w.patience.C)
			if waited && result.Source == Hit {
				result.Source = Waited
			}
			return result, err
		case leads:
			e.launch(ctx, f, j)
		default:
			j.begunToWait()
		}
		fallback, found, err := w.await(ctx, e, f, leads)
		switch {
		case err != nil && !found:
			return Result{}, err
		case found:
			return Result{Entry: fallback, Source: Hit}, nil
		case w.tired && j.detached:
			return e.do(ctx, j.together())
		case w.tired:
			return e.loadAlone(ctx, nil, j)
		case !f.shared || f.found.asOf < asked:
			waited = waited || !f.found.hit
		case f.found.hit && !waited:
			return Result{Entry: f.found.entry, Source: Hit}, nil
		default:
			if !leads {
				e.happened(ctx, Event{Kind: WaitEnded, Key: j.key, Took: time.Since(began)})
			}
			return Result{Entry: f.found.entry, Source: Waited}, nil
		}
	}
}

// together returns the job of those who have waited for too long: one of them
// loads for all of this process.
func (j *job) together() *job {
	alone := *j
	alone.lane, alone.alone, alone.giveUp = "alone "+j.lane, true, true
	alone.wait = fillTTL // LoadTimeout comes earlier
	return &alone
}

// wait is the patience of one caller.
type wait struct {
	job      *job
	patience *time.Timer
	soft     <-chan time.Time // nil: none, or over
	stop     func()
	tired    bool // it has waited for long enough, and is to compute for itself
}

func newWait(j *job) *wait {
	w := &wait{job: j, patience: time.NewTimer(j.wait)}
	w.stop = func() { w.patience.Stop() }
	if j.soft > 0 {
		soft := time.NewTimer(j.soft)
		w.soft = soft.C
		w.stop = func() { w.patience.Stop(); soft.Stop() }
	}
	return w
}

// await waits for the end of f. It returns an error if that is the caller's
// answer, and a fallback if that is.
func (w *wait) await(ctx context.Context, e *Engine, f *flight, leads bool) (fallback Entry, ok bool, err error) {
	for {
		select {
		case <-f.done:
			if f.shared && f.found.err != nil {
				fallback, ok = e.flights.fallbackOf(f)
				return fallback, ok, f.found.err
			}
			return Entry{}, false, nil
		case <-w.soft:
			w.soft = nil
			if fallback, ok = e.flights.fallbackOf(f); ok {
				e.flights.leave(f, true)
				return fallback, true, nil
			}
		case <-w.patience.C:
			fallback, ok = e.flights.fallbackOf(f)
			if !ok && leads && e.flights.isLoading(f) {
				continue // it is this caller's own load, which LoadTimeout bounds
			}
			e.flights.leave(f, ok)
			switch {
			case ok:
				return fallback, true, nil
			case w.job.giveUp:
				return Entry{}, false, ErrWaitTimeout
			}
			w.tired = true
			return Entry{}, false, nil
		case <-ctx.Done():
			e.flights.leave(f, false)
			return Entry{}, false, ended(ctx)
		}
	}
}

// ErrWaitTimeout is the error of a caller that has waited for WaitTimeout for what
// another one computes, if its policy wants neither a stale value nor a load of
// its own then.
var ErrWaitTimeout = errors.New("cache: another caller has been loading the value for longer than WaitTimeout")

// launch leads f in a goroutine of its own, with a context that ends when nobody
// waits any more.
func (e *Engine) launch(ctx context.Context, f *flight, j *job) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.flights.detach(f, cancel)
	go func() {
		defer cancel()
		// Those who wait have their own patience, and get the outcome from f.
		_, _ = e.lead(ctx, f, j, nil)
	}()
}

// refresh loads key anew in the background, because entry is stale or about to be.
// Of all processes one does.
func (e *Engine) refresh(ctx context.Context, j *job, entry Entry) {
	if e.failures.get(j.key) != nil || !e.refreshes.begin(j.key) {
		return
	}
	background := *j
	background.background = true
	background.judge = func(found Entry) verdict {
		if found.TTL > 0 && found.Version != entry.Version {
			return use // somebody else has
		}
		return reject
	}
	ctx = context.WithoutCancel(ctx)
	go func() {
		f := &flight{key: j.key, done: make(chan struct{})} // nobody is on it
		_, err := e.lead(ctx, f, &background, nil)
		pause := time.Duration(0)
		if errors.Is(err, errHeld) {
			// Another process is at it. To look again at once is for nothing.
			pause = refreshPause
		}
		e.refreshes.end(j.key, pause)
	}()
}

// refreshPause is for how long a process leaves a refresh to another one that is
// at it.
const refreshPause = 100 * time.Millisecond

// errHeld says that another process has the lease.
var errHeld = errors.New("cache: another process loads the value")
