package redislimit

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
	"github.com/herdless/herdless/middleware/ratelimit/internal/window"
)

//go:embed take.lua
var takeSource string

//go:embed one.lua
var oneSource string

//go:embed giveback.lua
var giveBackSource string

var (
	takeScript     = redis.NewScript(takeSource)
	oneScript      = redis.NewScript(oneSource)
	giveBackScript = redis.NewScript(giveBackSource)
)

// Take implements ratelimit.Store.
func (s *Store) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if err := req.Validate(); err != nil {
		return ratelimit.Decision{}, err
	}
	if !s.split.Load() || oneKey(req.Checks) {
		d, err := s.take(ctx, req, false)
		if err == nil || !redis.HasErrorPrefix(err, "CROSSSLOT") {
			return d.Decision, err
		}
		s.split.Store(true) // and nothing has been charged
	}
	return s.takeInTurn(ctx, req)
}

func oneKey(checks []ratelimit.Check) bool {
	for _, c := range checks[1:] {
		if c.Key != checks[0].Key {
			return false
		}
	}
	return true
}

// taken is a decision with what it takes to give back what was taken.
type taken struct {
	ratelimit.Decision
	windows []int64 // of each check, if any is a sliding window
}

// rule is a limit, ready to calculate with: one of the two.
type rule struct {
	spread  gcra.Rule
	sliding window.Rule
}

func newRule(l ratelimit.Limit) (r rule, err error) {
	if l.Sliding {
		r.sliding, err = window.NewRule(l.Rate, l.Period)
	} else {
		r.spread, err = gcra.NewRule(l.Rate, l.Period, l.Burst)
	}
	return r, err
}

// steps returns the sizes of the steps in which n extra units are taken: every
// number up to n is the sum of those of them that fit into it, the largest first.
func steps(n int) []int {
	var list []int
	for n > 0 {
		half := (n + 1) / 2
		list = append(list, half)
		n -= half
	}
	return list
}

// take makes a decision in one script. If it is only asked for, nothing is taken,
// but the states say what they would be.
func (s *Store) take(ctx context.Context, req ratelimit.Request, onlyAsk bool) (taken, error) {
	if onlyAsk {
		req.Extra = 0
	}
	if len(req.Checks) == 1 && !req.Checks[0].Limit.Sliding && req.Extra == 0 {
		return s.takeOne(ctx, req.Checks[0], onlyAsk)
	}
	sizes := steps(req.Extra)
	rules := make([]rule, len(req.Checks))
	keys := make([]string, len(req.Checks))
	args := make([]any, 0, 1+len(sizes)+(5+2+2*len(sizes))*len(req.Checks))
	args = append(args, len(sizes))
	for _, size := range sizes {
		args = append(args, size)
	}
	for i, c := range req.Checks {
		r, err := newRule(c.Limit)
		if err != nil {
			return taken{}, err // cannot be: the request is valid
		}
		rules[i], keys[i] = r, s.key(c.Key, c.Name)
		if onlyAsk {
			c.N = 0
		}
		if c.Limit.Sliding {
			keys[i] += slidingSuffix
			w := r.sliding
			args = append(args, "w", flag(c.Shadow), w.Limit, w.Period, w.Tick, min(int64(c.N), w.Limit+1))
			for _, size := range sizes {
				args = append(args, min(int64(size), w.Limit+1))
			}
			continue
		}
		g := r.spread
		cost := g.Cost(c.N)
		args = append(args, "g", flag(c.Shadow), g.Capacity.Micros, g.Capacity.Num, g.Den, cost.Micros, cost.Num)
		for _, size := range sizes {
			cost := g.Cost(size)
			args = append(args, cost.Micros, cost.Num)
		}
	}

	reply, err := s.run(ctx, takeScript, keys, args...)
	if err != nil {
		return taken{}, explain(err, keys)
	}
	if len(reply) != 2+4*len(rules) {
		return taken{}, fmt.Errorf("redislimit: Redis answered with %d numbers, not with %d", len(reply), 2+4*len(rules))
	}
	d := taken{
		Decision: ratelimit.Decision{
			Allowed: reply[0] == 1, Extra: int(reply[1]), States: make([]ratelimit.CheckState, len(rules)),
		},
		windows: make([]int64, len(rules)),
	}
	for i, r := range rules {
		var state ratelimit.CheckState
		state, d.windows[i] = r.state(req.Checks[i], reply[2+4*i:])
		if onlyAsk {
			state.Over = state.RetryAfter != 0
		}
		d.States[i] = state
	}
	return d, nil
}

// takeOne is take for one GCRA limit without extra units.
func (s *Store) takeOne(ctx context.Context, c ratelimit.Check, onlyAsk bool) (taken, error) {
	r, err := newRule(c.Limit)
	if err != nil {
		return taken{}, err // cannot be: the request is valid
	}
	if onlyAsk {
		c.N = 0
	}
	g, key := r.spread, s.key(c.Key, c.Name)
	value, err := s.runner.RunEach(ctx, oneScript, key, asked(g, g.Cost(c.N)))
	if err != nil {
		return taken{}, explain(err, []string{key})
	}
	var room [3]int64
	reply, err := owed(value, room[:0])
	if err != nil {
		return taken{}, err
	}
	if len(reply) != 3 {
		return taken{}, fmt.Errorf("redislimit: Redis answered with %d numbers, not with 3", len(reply))
	}
	state, _ := r.state(c, reply)
	allowed := !state.Over || c.Shadow
	if onlyAsk {
		state.Over = state.RetryAfter != 0
	}
	return taken{Decision: ratelimit.Decision{Allowed: allowed, States: []ratelimit.CheckState{state}}}, nil
}

// asked returns what one.lua is told.
func asked(g gcra.Rule, cost gcra.Span) []byte {
	b := make([]byte, 0, 5*8)
	for _, n := range [...]int64{g.Capacity.Micros, g.Capacity.Num, g.Den, cost.Micros, cost.Num} {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(n)))
	}
	return b
}

// owed appends the three numbers that one.lua answers with.
func owed(value any, to []int64) ([]int64, error) {
	if n, whole := value.(int64); whole {
		return append(to, 0, n, 0), nil
	}
	return numbers(value, to)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// state returns what the script says of a check, and the window it was in.
func (r rule) state(c ratelimit.Check, reply []int64) (ratelimit.CheckState, int64) {
	state := ratelimit.CheckState{Over: reply[0] == 1}
	if c.Limit.Sliding {
		now := reply[3]
		count := window.Count{Window: r.sliding.Window(now), Prev: reply[1], Cur: reply[2]}
		state.Remaining = r.sliding.Remaining(count, now)
		state.RetryAfter = r.sliding.Wait(count, now, c.N)
		state.NextAfter = max(0, r.sliding.Wait(count, now, state.Remaining+1))
		state.ResetAfter = r.sliding.Reset(count, now)
		return state, count.Window
	}
	debt := gcra.Span{Micros: reply[1], Num: reply[2]}
	state.Remaining = r.spread.Remaining(debt)
	state.RetryAfter = r.spread.Wait(debt, c.N)
	state.NextAfter = max(0, r.spread.Wait(debt, state.Remaining+1))
	state.ResetAfter = gcra.Ceil(debt)
	return state, 0
}

// turn is what was taken for one key of several.
type turn struct {
	of     []int // which checks
	checks []ratelimit.Check
	taken  taken
	gift   string // names what is given back of it, once anything is
}

// takeInTurn makes a decision about keys in different slots: it takes the units
// of one key after the other, and gives them back if a later one denies. The
// package documentation says what that means.
func (s *Store) takeInTurn(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	all := turns(req.Checks)
	d := ratelimit.Decision{Allowed: true, Extra: req.Extra, States: make([]ratelimit.CheckState, len(req.Checks))}
	for i := range all {
		t := &all[i]
		var err error
		t.taken, err = s.take(ctx, ratelimit.Request{Checks: t.checks, Extra: d.Extra}, !d.Allowed)
		if err != nil {
			if d.Allowed {
				// Not for the one who asked, who waits no longer than his context.
				go s.giveBackLate(context.WithoutCancel(ctx), all[:i])
			}
			return ratelimit.Decision{}, err
		}
		d.Extra = t.taken.Extra
		if d.Allowed && !t.taken.Allowed {
			d.Allowed = false
			s.undo(ctx, all[:i])
		}
	}
	for i := range all {
		t := &all[i]
		if more := t.taken.Extra - d.Extra; d.Allowed && more > 0 {
			if err := s.giveBack(ctx, t, more, false); err != nil {
				return ratelimit.Decision{}, err
			}
			for i := range t.checks {
				t.taken.States[i].Remaining += more
			}
		}
		for i, at := range t.of {
			d.States[at] = t.taken.States[i]
		}
	}
	return d, nil
}

// undo gives back what the turns have taken, because a later one has denied, and
// asks how they stand now.
func (s *Store) undo(ctx context.Context, turns []turn) {
	for i := range turns {
		t := &turns[i]
		if err := s.giveBack(ctx, t, t.taken.Extra, true); err != nil {
			go s.giveBackLate(context.WithoutCancel(ctx), turns[i:i+1])
			continue
		}
		if now, err := s.take(ctx, ratelimit.Request{Checks: t.checks}, true); err == nil {
			t.taken = now
		}
	}
}

// giveBackTimeout is how long it is tried to give back what was taken for a
// decision that has failed.
const giveBackTimeout = time.Second

// rememberGift is for how long it is remembered that something was given back: longer than
// go-redis may try.
const rememberGift = 30 * time.Second

// giveBackLate gives back what the turns have taken, for nobody who waits.
func (s *Store) giveBackLate(ctx context.Context, turns []turn) {
	defer func() {
		// A hook of go-redis would end the process here.
		if p := recover(); p != nil {
			slog.ErrorContext(ctx, "redislimit: a panic while units were given back", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	for i := range turns {
		// If it fails, the units come back at the limit's rate.
		_ = s.giveBack(ctx, &turns[i], turns[i].taken.Extra, true)
	}
}

// giveBack gives back extra units, and if all is set what was asked for besides. It gives
// back once, however often it is tried for the same turn.
func (s *Store) giveBack(ctx context.Context, t *turn, extra int, all bool) error {
	var keys []string
	var args []any
	for i, c := range t.checks {
		n := extra
		if all {
			n += c.N
		}
		if t.taken.States[i].Over || n == 0 {
			continue
		}
		r, err := newRule(c.Limit)
		if err != nil {
			return err // cannot be: the request is valid
		}
		key := s.key(c.Key, c.Name)
		if c.Limit.Sliding {
			keys, args = append(keys, key+slidingSuffix), append(args, "w", t.taken.windows[i], n)
			continue
		}
		cost := r.spread.Cost(n)
		keys, args = append(keys, key), append(args, "g", cost.Micros, cost.Num)
	}
	if len(keys) == 0 {
		return nil
	}
	if t.gift == "" {
		t.gift = s.key(t.checks[0].Key, giftSuffix+rand.Text())
	}
	keys, args = append(keys, t.gift), append(args, rememberGift.Milliseconds())
	if _, err := s.run(ctx, giveBackScript, keys, args...); err != nil {
		return explain(err, keys)
	}
	return nil
}

func turns(checks []ratelimit.Check) []turn {
	var all []turn
next:
	for i, c := range checks {
		for k := range all {
			if all[k].checks[0].Key == c.Key {
				all[k].of, all[k].checks = append(all[k].of, i), append(all[k].checks, c)
				continue next
			}
		}
		all = append(all, turn{of: []int{i}, checks: []ratelimit.Check{c}})
	}
	return all
}
