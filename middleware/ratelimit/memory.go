package ratelimit

import (
	"context"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
)

// MemoryStore is a Store within the process: exact for one process, for tests,
// and for programs that run once. Processes that share limits need a shared
// store, such as the one of package redislimit.
//
// It holds an entry of about 200 bytes per key that has not all of its burst,
// and drops it when the key has. It starts no goroutine. It is safe for
// concurrent use.
type MemoryStore struct {
	start time.Time // instants are microseconds since then, on the monotonic clock

	mu   sync.Mutex
	keys *ttlmap.Map[string, arrival]
}

// arrival is a theoretical arrival time (see package gcra).
type arrival struct {
	at  gcra.Span // since MemoryStore.start
	den int64     // the denominator of at
}

var _ Store = (*MemoryStore)(nil)

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{start: time.Now(), keys: ttlmap.New[string, arrival]()}
}

// Take implements Store.
func (m *MemoryStore) Take(ctx context.Context, req Request) (Decision, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	if err := req.Validate(); err != nil {
		return Decision{}, err
	}

	m.mu.Lock()
	defer m.mu.Unlock()

	now := time.Since(m.start).Microseconds()
	rules := make([]gcra.Rule, len(req.Checks))
	debts := make([]gcra.Span, len(req.Checks))
	allowed := true
	for i, c := range req.Checks {
		rule, err := c.Limit.rule()
		if err != nil {
			return Decision{}, err // cannot be: the request is valid
		}
		rules[i], debts[i] = rule, m.debt(c.Key, rule, now)
		if rule.Wait(debts[i], req.N) != 0 {
			allowed = false
		}
	}

	d := Decision{Allowed: allowed, States: make([]CheckState, len(req.Checks))}
	for i, c := range req.Checks {
		rule := rules[i]
		if allowed && req.N > 0 {
			debts[i] = rule.Add(debts[i], rule.Cost(req.N))
			at := rule.Add(debts[i], gcra.Span{Micros: now})
			// now was rounded down, so the debt is over before the entry is.
			m.keys.Set(c.Key, arrival{at: at, den: rule.Den}, gcra.Ceil(debts[i]))
		}
		d.States[i] = CheckState{
			Remaining:  rule.Remaining(debts[i]),
			RetryAfter: rule.Wait(debts[i], req.N),
			ResetAfter: gcra.Ceil(debts[i]),
		}
	}
	return d, nil
}

// debt returns what key owes at now.
func (m *MemoryStore) debt(key string, rule gcra.Rule, now int64) gcra.Span {
	tat, _, ok := m.keys.Get(key)
	if !ok {
		return gcra.Span{}
	}
	return rule.Debt(tat.at, tat.den, now)
}

// Reset implements Store.
func (m *MemoryStore) Reset(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys.Delete(key)
	return nil
}
