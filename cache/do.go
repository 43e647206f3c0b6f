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
	own := &flight{job: job{key: key, load: load, judge: freshOnly, wait: e.waitTimeout}}
	result, err := e.do(ctx, &own.job, own)
	if err == nil && result.Source == Hit {
		e.CountHit(ctx, key, &result.Entry)
	}
	return result, err
}

// Verdict says what a caller does with an entry that is found.
type Verdict uint8

const (
	// Reject: it is as good as none.
	Reject Verdict = iota
	// FallBack: it is better than nothing, if loading fails or takes long.
	FallBack
	// UseAndRefresh: it will do, and a new one is loaded in the background.
	UseAndRefresh
	// Use: it will do.
	Use
)

func freshOnly(e Entry) Verdict {
	if e.TTL > 0 {
		return Use
	}
	return Reject
}

// job is what a caller wants of a key.
type job struct {
	key   string
	load  Load
	judge func(Entry) Verdict
	// by comes in place of load, judge and refresh; nil: there are those.
	by Fetcher
	// wait is how long to wait for another one who computes.
	wait time.Duration

	// unreadable reports an entry that was stored in another format; nil: there
	// are none.
	unreadable func(Entry) bool

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
	// noWait: nobody is waited for, and nobody waits.
	noWait bool
	// refresh is the load of a background job, if it is another one.
	refresh Load
	// inline: what is to be refreshed is, by the caller that gets to it.
	inline bool
	// alone: the store is not asked.
	alone bool
}

func (j *job) verdict(e Entry) Verdict {
	if j.by != nil {
		return j.by.Judge(e)
	}
	return j.judge(e)
}

func (j *job) compute(ctx context.Context, l *Loading) (Entry, error) {
	if j.by != nil {
		return j.by.Load(ctx, l)
	}
	return j.load(ctx, l)
}

func (j *job) begunToWait() {
	if j.waits != nil {
		j.waits()
	}
}

// do does a job. spare is a flight for it that nobody has seen, or nil.
func (e *Engine) do(ctx context.Context, j *job, spare *flight) (Result, error) {
	asked := e.asked.Add(1)
	began := time.Now()
	if j.noWait {
		return e.lead(ctx, newFlight(j.key, spare), j, nil) // that only its leader knows
	}
	w := &wait{job: j, began: began, fresh: true}
	defer w.stop()
	for waited := false; ; {
		f, leads := e.flights.join(j.lane+j.key, spare)
		if leads {
			spare = nil
		}
		switch {
		case leads && !j.detached:
			result, err := e.lead(ctx, f, j, w)
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
		case w.shared:
			e.happened(ctx, Event{Kind: WaitEnded, Key: j.key, Took: time.Since(began)})
			return Result{Entry: fallback, Source: Waited}, nil
		case found:
			return Result{Entry: fallback, Source: Hit}, nil
		case w.tired && j.detached:
			return e.do(ctx, j.together(), nil)
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

// wait is the patience of one caller. It has no timer before there is something to
// wait for.
type wait struct {
	job      *job
	began    time.Time
	patience *time.Timer
	soft     *time.Timer // nil: none
	fresh    bool        // it has just begun, and has not waited yet
	tired    bool        // it has waited for long enough, and is to compute for itself
	shared   bool        // it has got what the one who computes has shared before the end
}

// over is the channel on which the end of the patience is told. A nil wait has
// patience for ever.
func (w *wait) over() <-chan time.Time {
	if w == nil {
		return nil
	}
	if w.patience == nil {
		w.patience = time.NewTimer(w.job.wait - time.Since(w.began))
	}
	return w.patience.C
}

// softOver is the channel on which it is told that a fallback will do, or nil.
func (w *wait) softOver() <-chan time.Time {
	if w.job.soft <= 0 {
		return nil
	}
	if w.soft == nil {
		w.soft = time.NewTimer(w.job.soft - time.Since(w.began))
	}
	return w.soft.C
}

// now is the time, which who has just begun need not ask for again.
func (w *wait) now() time.Time {
	if w != nil && w.fresh {
		return w.began
	}
	return time.Now()
}

func (w *wait) stop() {
	if w.patience != nil {
		w.patience.Stop()
	}
	if w.soft != nil {
		w.soft.Stop()
	}
}

// await waits for the end of f. It returns an error if that is the caller's
// answer, and a fallback if that is.
func (w *wait) await(ctx context.Context, e *Engine, f *flight, leads bool) (fallback Entry, ok bool, err error) {
	w.fresh = false
	done, early := e.flights.signals(f)
	patience, soft := w.over(), w.softOver()
	for {
		select {
		case <-early:
			early = nil
			if entry, ok := e.flights.earlyOf(f); ok {
				e.flights.leave(f, true)
				w.shared = true
				return entry, true, nil
			}
		case <-done:
			if early != nil && !f.shared { // both may have come at once
				if entry, ok := e.flights.earlyOf(f); ok {
					w.shared = true
					return entry, true, nil
				}
			}
			if f.shared && f.found.err != nil {
				fallback, ok = e.flights.fallbackOf(f, e.changes.Load())
				return fallback, ok, f.found.err
			}
			return Entry{}, false, nil
		case <-soft: // once
			if fallback, ok = e.flights.fallbackOf(f, e.changes.Load()); ok {
				e.flights.leave(f, true)
				return fallback, true, nil
			}
		case <-patience:
			fallback, ok = e.flights.fallbackOf(f, e.changes.Load())
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
	background.background, background.inline, background.by = true, false, nil
	switch {
	case j.by != nil && j.inline:
		background.load = j.by.Load
	case j.by != nil:
		background.load = j.by.Refresh
	case j.refresh != nil:
		background.load = j.refresh
	}
	background.judge = func(found Entry) Verdict {
		if found.TTL > 0 && found.Version != entry.Version {
			return Use // somebody else has
		}
		return FallBack
	}
	ctx = context.WithoutCancel(ctx)
	go func() {
		_, err := e.lead(ctx, &flight{key: j.key}, &background, nil) // nobody else is on it
		pause := time.Duration(0)
		if errors.Is(err, ErrHeld) {
			// Another process is at it. To look again at once is for nothing.
			pause = refreshPause
		} else if err != nil && !j.detached { // of a detached one failures are remembered
			pause = failureTTL
		}
		e.refreshes.end(j.key, pause)
	}()
}

// refreshPause is for how long a process leaves a refresh to another one that is
// at it.
const refreshPause = 100 * time.Millisecond
