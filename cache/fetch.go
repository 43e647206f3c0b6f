package cache

import (
	"context"
	"errors"
	"time"
)

// Fetch is a call of Engine.Fetch.
type Fetch struct {
	// Key is what the entry is stored under.
	Key string

	// Load computes the entry. If it panics, so does Engine.Fetch.
	Load Load

	// Judge says what to do with an entry that is found, of any Kind. It is
	// called in the caller's goroutine and may be called more than once. An
	// entry that is to be looked at again when it is out of date is found with
	// FallBack: Load has it as Loading.Stale. Nil: Use what is fresh, and Reject
	// all else.
	Judge func(Entry) Verdict

	// Refresh computes the entry in the background when Judge has said
	// UseAndRefresh. It runs in a goroutine of its own and must not panic. Nil:
	// one caller in the cluster runs Load, and the others use what there is.
	Refresh Load

	// Lane keeps callers apart who want different things of a key: what is found
	// is shared only within one. With a Locker, those of all lanes share what is computed.
	Lane string

	// By is Judge, Load and Refresh in one value, in place of them: three functions made for
	// each call are three pieces of memory. Nil: there are those.
	By Fetcher

	// Room is a part of what the caller makes for the call in any case, so that the Engine
	// needs no piece of memory of its own. Nil: it makes one.
	Room *Room

	// Inline: as without Refresh, one caller in the cluster runs Load, and the others use
	// what there is. It is for By, whose Refresh is not called then.
	Inline bool

	// NoWait: the caller waits for nobody, and nobody in this process waits for
	// it. If another one computes the key, the error is ErrHeld.
	NoWait bool
}

// Fetcher is who one Fetch is for. Its methods do what the fields of Fetch of the same names
// say.
type Fetcher interface {
	Judge(e Entry) Verdict
	Load(ctx context.Context, l *Loading) (Entry, error)
	Refresh(ctx context.Context, l *Loading) (Entry, error)
}

// Room is the memory that an Engine needs for a Fetch. Its zero value is ready. It must not be
// copied, nor used for a second Fetch.
type Room struct{ flight flight }

// ErrHeld is the error of a Fetch with NoWait if another caller computes the key.
var ErrHeld = errors.New("cache: another caller computes the value")

// Fetch is Do for callers who judge for themselves what they use. Callers of one
// process share what the first of them in their lane has found, even if Judge
// depends on the caller: who is handed an entry judges it once more.
func (e *Engine) Fetch(ctx context.Context, f Fetch) (Result, error) {
	if f.Judge == nil {
		f.Judge = freshOnly
	}
	f.Inline = f.Inline || f.By == nil && f.Refresh == nil
	if entry, ok := e.store.Peek(f.Key); ok {
		v := f.verdict(entry)
		if v == UseAndRefresh && !f.Inline {
			e.refresh(ctx, &e.flightOf(&f).job, entry)
		}
		if v == Use || v == UseAndRefresh && !f.Inline {
			e.CountHit(ctx, f.Key, &entry)
			return Result{Entry: entry, Source: Hit}, nil
		}
	}
	own := e.flightOf(&f)
	result, err := e.do(ctx, &own.job, own)
	if err == nil && result.Source == Hit {
		e.CountHit(ctx, f.Key, &result.Entry)
	}
	return result, err
}

func (f *Fetch) verdict(e Entry) Verdict {
	if f.By != nil {
		return f.By.Judge(e)
	}
	return f.Judge(e)
}

// flightOf returns a flight with the job of a Fetch.
func (e *Engine) flightOf(f *Fetch) *flight {
	if f.Room == nil {
		f.Room = new(Room)
	}
	own := &f.Room.flight
	own.job = job{
		key: f.Key, load: f.Load, judge: f.Judge, refresh: f.Refresh, by: f.By, wait: e.waitTimeout, noWait: f.NoWait, inline: f.Inline,
	}
	if f.Lane != "" {
		own.job.lane = "lane " + f.Lane + " "
	}
	if f.Inline {
		own.job.soft = inlinePause
	}
	return own
}

// Peek returns the entry under key if this process has it at hand. It asks nobody,
// never waits, allocates and counts nothing: what comes before a Fetch where most
// calls find what they want. Whoever uses what is found calls CountHit.
func (e *Engine) Peek(key string) (Entry, bool) { return e.store.Peek(key) }

// CountHit counts an entry that was found by Peek and is used.
func (e *Engine) CountHit(ctx context.Context, key string, entry *Entry) {
	kind := HitFresh
	switch {
	case entry.TTL <= 0:
		kind = HitStale
		e.counters.stale.Add(1)
	case entry.Local:
		e.counters.local.add(entry.Version)
	default:
		e.counters.store.Add(1)
	}
	if e.observe != nil {
		e.observe(ctx, Event{Kind: kind, Key: key, Local: entry.Local})
	}
}

// inlinePause is how long those wait who can use what there is, for the one who
// computes anew to say what that is.
const inlinePause = 10 * time.Millisecond
