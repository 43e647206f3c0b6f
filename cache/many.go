package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/herdless/herdless/internal/deadline"
)

// A ManyLoader is a Loader for many keys at once, none of them twice: it returns the
// values that the source has, by key. Keys that it leaves out do not exist, those
// that were not asked for are ignored, and so is the map that comes with an error.
// What AddTags and SetTTL say holds for all of them; AddTagsFor is for single ones.
type ManyLoader[V any] func(ctx context.Context, keys []string) (map[string]V, error)

// GetMany is Get for many keys: they are read in one step of the store, and those
// that are missing and that nobody else loads already in one call of load, each
// under a lease of its own. It returns the values that there are, by key. Keys
// without a value are left out.
//
// If some cannot be had, because load fails or ctx ends, the others are returned
// together with the error. The map is never nil.
func (n *Namespace[V]) GetMany(ctx context.Context, keys []string, load ManyLoader[V]) (map[string]V, error) {
	values := make(map[string]V, len(keys))
	missing := n.readMany(ctx, keys, load, values)
	if len(missing) == 0 {
		return values, nil
	}
	b := newBatch(n, load, len(missing))
	var (
		mu   sync.Mutex
		errs []error
		wg   sync.WaitGroup
	)
	for _, key := range missing {
		b.slots <- struct{}{} // until it is decided
		wg.Go(func() {
			member := b.member(key)
			defer member.decide() // it has not loaded
			j := n.job(key, member.load)
			j.waits, j.slots = member.decide, b.fills
			v, err := n.get(ctx, j)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				values[key] = v
			case !errors.Is(err, ErrNotFound):
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return values, firstOf(errs)
}

// firstOf returns the first of some errors, and how many there are: those of one
// batch are most often the same.
func firstOf(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w (and %d more errors)", errs[0], len(errs)-1)
}

// readMany puts those that are cached into values and returns the other keys, each
// once.
func (n *Namespace[V]) readMany(ctx context.Context, keys []string, load ManyLoader[V], values map[string]V) (missing []string) {
	e := n.engine
	seen := make(map[string]bool, len(keys))
	take := func(key string, entry Entry) bool {
		switch n.judge(entry) {
		case UseAndRefresh:
			one := newBatch(n, load, 1).member(key)
			e.refresh(ctx, n.job(key, one.load), entry)
		case Use:
		default:
			return false
		}
		e.CountHit(ctx, n.prefix+key, &entry)
		if v, err := n.value(entry); err == nil {
			values[key] = v
		}
		return true
	}
	var ask, full []string
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		if entry, ok := e.store.Peek(n.prefix + key); ok && take(key, entry) {
			continue
		}
		ask = append(ask, key)
		full = append(full, n.prefix+key)
	}
	if len(ask) == 0 {
		return nil
	}
	entries, err := e.readMany(ctx, full)
	if err != nil {
		return ask
	}
	for i, key := range ask {
		if entries[i].Kind == 0 || !take(key, entries[i]) {
			missing = append(missing, key)
		}
	}
	return missing
}

func (e *Engine) readMany(ctx context.Context, keys []string) (entries []Entry, err error) {
	ctx, cancel := deadline.After(ctx, e.storeTimeout, errBudget)
	defer cancel()
	err = e.step(ctx, "read many", keys[0], func() (err error) {
		entries, err = e.store.GetMany(ctx, keys)
		return err
	})
	return entries, err
}

// batch brings the loads of the keys of one GetMany together. Each key is on its
// own way through the engine. When all that may still come to load have either
// done so, or turned out to wait for somebody else or to need nothing, those that
// are there are loaded in one call.
type batch[V any] struct {
	n    *Namespace[V]
	call ManyLoader[V]

	// slots bounds how many members are on their way to load at a time, and
	// fills how many store: all at once would take longer than the budget that
	// each has.
	slots, fills chan struct{}

	mu        sync.Mutex
	undecided int
	ready     []*request[V]
}

// batchAtOnce is how many members of a batch are in the store at a time.
const batchAtOnce = 32

func newBatch[V any](n *Namespace[V], call ManyLoader[V], members int) *batch[V] {
	return &batch[V]{
		n: n, call: call, undecided: members,
		slots: make(chan struct{}, batchAtOnce), fills: make(chan struct{}, batchAtOnce),
	}
}

// member is one key of a batch.
type member[V any] struct {
	batch   *batch[V]
	key     string
	decided bool // guarded by the batch's mutex
}

// request is one load of a member. A member that got tired loads a second time.
type request[V any] struct {
	key     string
	ctx     context.Context //nolint:containedctx // it stands for a load that waits for the others
	outcome chan loadedValue[V]
}

type loadedValue[V any] struct {
	value V
	added *additions
	err   error
}

func (b *batch[V]) member(key string) *member[V] {
	return &member[V]{batch: b, key: key}
}

// decide says that nobody needs to wait for m to load.
func (m *member[V]) decide() {
	b := m.batch
	b.mu.Lock()
	defer b.mu.Unlock()
	m.settle()
	b.startIfComplete()
}

// settle notes that m is decided, and lets another member have its slot. It is
// called with the batch's mutex held.
func (m *member[V]) settle() {
	if m.decided {
		return
	}
	m.decided = true
	m.batch.undecided--
	select {
	case <-m.batch.slots:
	default: // a refresh, which has not taken one
	}
}

// load is the Load of m's key.
func (m *member[V]) load(ctx context.Context, l *Loading) (Entry, error) {
	return m.batch.n.contained(m.key, func(ctx context.Context, _ string) (V, error) {
		r := &request[V]{key: m.key, ctx: ctx, outcome: make(chan loadedValue[V], 1)}
		b := m.batch
		b.mu.Lock()
		b.ready = append(b.ready, r)
		m.settle()
		b.startIfComplete()
		b.mu.Unlock()
		select {
		case o := <-r.outcome:
			if o.added != nil {
				o.added.passTo(ctx, m.key)
			}
			return o.value, o.err
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
	})(ctx, l)
}

func (b *batch[V]) startIfComplete() {
	if b.undecided > 0 || len(b.ready) == 0 {
		return
	}
	members := b.ready
	b.ready = nil
	go b.run(members)
}

// run calls the loader for members and hands the values out. The loader's context
// ends when no member waits any more.
func (b *batch[V]) run(members []*request[V]) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(members[0].ctx))
	defer cancel(nil)
	var (
		mu    sync.Mutex
		alive = len(members)
		keys  = make([]string, len(members))
	)
	for i, m := range members {
		keys[i] = m.key
		stop := context.AfterFunc(m.ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if alive--; alive == 0 {
				cancel(context.Cause(m.ctx))
			}
		})
		defer stop()
	}
	ctx, added := withAdditions(ctx)
	var values map[string]V
	err := errLoadExited
	// Deferred: also if the loader ends its goroutine.
	defer func() {
		for _, m := range members {
			o := loadedValue[V]{added: added, err: err}
			if err == nil {
				v, ok := values[m.key]
				if o.value = v; !ok {
					o.err = ErrNotFound
				}
			}
			m.outcome <- o
		}
	}()
	values, err = b.callContained(ctx, keys)
}

func (b *batch[V]) callContained(ctx context.Context, keys []string) (values map[string]V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return b.call(ctx, keys)
}

// passTo adds what a has for key to the additions of ctx.
func (a *additions) passTo(ctx context.Context, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	AddTags(ctx, a.tags...)
	AddTags(ctx, a.of[key]...)
	if a.ttl != nil {
		SetTTL(ctx, *a.ttl)
	}
}
