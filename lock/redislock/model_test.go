package redislock_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// modelLock is the smallest that a store can have of a name: its leases, and its
// queue.
type modelLock struct{ leases, queue []modelEntry }

// modelEntry ends at some instant between two, because the step that made it
// happened at some instant between its call and its answer.
type modelEntry struct {
	req           lock.Request
	first, latest time.Time
}

// modelRounding is by how much a store may round an end, up or down: Redis to
// milliseconds.
const modelRounding = 2 * time.Millisecond

// modelSpan is the time between the call of a step and its answer.
type modelSpan struct{ from, to time.Time }

func (s modelSpan) entry(req lock.Request, lasts time.Duration) modelEntry {
	return modelEntry{req, s.from.Add(lasts - modelRounding), s.to.Add(lasts + modelRounding)}
}

// left is for how long e lasts, at least and at most.
func (s modelSpan) left(e modelEntry) (least, most time.Duration) {
	return e.first.Sub(s.to), e.latest.Sub(s.from)
}

func indexOfEntry(entries []modelEntry, owner string) int {
	return slices.IndexFunc(entries, func(e modelEntry) bool { return e.req.Owner == owner })
}

func withoutEntry(entries []modelEntry, owner string) []modelEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e modelEntry) bool { return e.req.Owner == owner })
}

// modelFits reports whether a lease for req can be held together with those of with.
func modelFits(req lock.Request, with []modelEntry) bool {
	for _, e := range with {
		if !e.req.Shared || !req.Shared {
			return false
		}
	}
	return !req.Shared || req.Limit == 0 || len(with) < req.Limit
}

func (l modelLock) ahead(owner string) []modelEntry {
	if i := indexOfEntry(l.queue, owner); i >= 0 {
		return l.queue[:i]
	}
	return l.queue
}

// admits reports whether req is granted: it fits together with all leases that
// there are, and all that are ahead.
func (l modelLock) admits(req lock.Request) bool {
	return indexOfEntry(l.leases, req.Owner) >= 0 || modelFits(req, slices.Concat(l.leases, l.ahead(req.Owner)))
}

// wait is what a refusal says, at least and at most: until when enough leases
// have ended, or the place of whoever comes next.
func (l modelLock) wait(req lock.Request, s modelSpan) (least, most time.Duration) {
	all := slices.SortedFunc(slices.Values(l.leases), func(a, b modelEntry) int { return a.latest.Compare(b.latest) })
	for i := 0; !modelFits(req, all[i:]); i++ {
		a, b := s.left(all[i])
		// Where owners disagree about the limit, a store may say only when the
		// first one ends.
		if i == 0 || !req.Shared {
			least = a
		}
		most = b
	}
	if ahead := l.ahead(req.Owner); len(ahead) > 0 {
		a, b := s.left(ahead[0])
		if modelFits(req, l.leases) {
			least = a
		}
		most = max(most, b)
	}
	return least, most
}

// turns are the owners for whom there is room.
func (l modelLock) turns() []string {
	var owners []string
	for i, e := range l.queue {
		if !modelFits(e.req, slices.Concat(l.leases, l.queue[:i])) {
			break // it is in the way of those behind it
		}
		owners = append(owners, e.req.Owner)
	}
	slices.Sort(owners)
	return owners
}

func (l modelLock) String() string {
	var s strings.Builder
	s.WriteString("a name that ")
	for _, e := range l.leases {
		fmt.Fprintf(&s, "%s holds ", e.req.Owner)
	}
	for _, e := range l.queue {
		fmt.Fprintf(&s, "%s waits for ", e.req.Owner)
	}
	return s.String()
}

// modelStep is one step of a store, and modelAnswer what came of it.
type modelStep struct {
	op   string
	from lock.Request // of a relay, which is a release of this and an acquire; of its release, who asks
	req  lock.Request
}

type modelAnswer struct {
	ok    bool          // acquired, or held; of a relay, acquired
	held  bool          // of a relay
	given bool          // acquired before it was asked for
	wait  time.Duration // HeldFor
	woken string        // the owners who were woken, in alphabetic order
}

// after returns what is there after the step, and whether that is how it went.
func (l modelLock) after(st modelStep, got modelAnswer, s modelSpan) (modelLock, bool) {
	req := st.req
	if st.op == "relay" {
		released, first := l.after(modelStep{op: "release", req: st.from, from: req}, modelAnswer{ok: got.held, woken: got.woken}, s)
		if got.ok && req.Shared {
			first = true // see do
		}
		acquired, second := released.after(modelStep{op: "acquire", req: req}, modelAnswer{ok: got.ok, wait: got.wait}, s)
		return acquired, first && second
	}
	want := modelAnswer{ok: indexOfEntry(l.leases, req.Owner) >= 0, given: got.given, wait: got.wait}
	switch st.op {
	case "acquire":
		want.ok = l.admits(req)
		switch place := indexOfEntry(l.queue, req.Owner); {
		case got.given:
			// It lasts as long as the place would have, and nothing changes.
			want.wait = 0
		case want.ok:
			l.leases = append(withoutEntry(l.leases, req.Owner), s.entry(req, req.TTL))
			l.queue = withoutEntry(l.queue, req.Owner)
			want.wait = 0
		default:
			if least, most := l.wait(req, s); got.wait < max(least, 1) || got.wait > most {
				return l, false
			}
			switch {
			case req.Place > 0 && place >= 0:
				l.queue = slices.Clone(l.queue)
				l.queue[place] = s.entry(req, req.Place)
			case req.Place > 0:
				l.queue = append(slices.Clone(l.queue), s.entry(req, req.Place))
			}
		}
	case "extend":
		if i := indexOfEntry(l.leases, req.Owner); i >= 0 {
			l.leases = slices.Clone(l.leases)
			l.leases[i] = s.entry(req, req.TTL)
		}
	case "release":
		l.leases, l.queue = withoutEntry(l.leases, req.Owner), withoutEntry(l.queue, req.Owner)
		want.woken = fmt.Sprint(l.turns())
		// In a relay, the one who asks is granted the lease in a step of its own.
		if want.ok && !req.Shared && len(l.queue) > 0 && l.queue[0].req.Give && l.queue[0].req.Owner != st.from.Owner {
			l.leases, l.queue = append(l.leases, l.queue[0]), l.queue[1:]
		}
	}
	return l, got == want
}

// modelName is a name in a store under test, with all that the store may have of
// it: one modelLock, unless something ends at about this moment.
type modelName struct {
	name   string
	store  lock.Store
	gives  bool // leases to owners that begin with "g"
	may    []modelLock
	tokens map[string]uint64 // of the leases
	blocks map[string]int    // how many tokens each owner was granted last
	last   uint64
	turns  map[string]<-chan struct{} // the watches of all owners there ever were
	arrive func()                     // returns when all wake-ups so far are there
}

// end lets end what must have, and may end what may have, at the time of s.
func (n *modelName) end(s modelSpan) {
	var may []modelLock
	for _, l := range n.may {
		possible := []modelLock{{}}
		both := func(entries []modelEntry, add func(*modelLock, modelEntry)) {
			for _, e := range entries {
				var next []modelLock
				for _, p := range possible {
					with := modelLock{slices.Clone(p.leases), slices.Clone(p.queue)}
					add(&with, e)
					if e.latest.After(s.from) {
						next = append(next, with)
					}
					if !e.first.After(s.to) {
						next = append(next, p)
					}
				}
				possible = next
			}
		}
		both(l.leases, func(l *modelLock, e modelEntry) { l.leases = append(l.leases, e) })
		both(l.queue, func(l *modelLock, e modelEntry) { l.queue = append(l.queue, e) })
		may = append(may, possible...)
	}
	// Once an end is past, what differed by it alone is the same.
	seen := map[string]bool{}
	n.may = slices.DeleteFunc(may, func(l modelLock) bool {
		key := fmt.Sprintf("%+v", l.leases) + fmt.Sprintf("%+v", l.queue)
		again := seen[key]
		seen[key] = true
		return again
	})
}

// do takes a step and compares what came of it with the model. It returns that,
// and what the store had before, if that is certain. It is not over if the machine
// was so busy that the answer came after the lease would have ended: then nobody
// knows what the store has.
func (n *modelName) do(t *testing.T, r *rapid.T, st modelStep) (got modelAnswer, of string, over bool) {
	st.req.Name = n.name
	if n.turns[st.req.Owner] == nil {
		turn, stop, err := n.store.Watch(t.Context(), n.name, st.req.Owner)
		require.NoError(r, err)
		r.Cleanup(stop)
		n.turns[st.req.Owner] = turn
	}
	for _, req := range []*lock.Request{&st.req, &st.from} {
		if req.Give = n.gives && strings.HasPrefix(req.Owner, "g"); req.Give {
			n.blocks[req.Owner] = 2 // in all requests of an owner
		}
	}
	if st.req.Give {
		st.req.Tokens = 2
	}
	var grant lock.Grant
	var err error
	s := modelSpan{from: time.Now()}
	switch st.op {
	case "acquire":
		grant, err = n.store.TryAcquire(t.Context(), st.req)
		got.ok, got.given, got.wait = grant.Acquired, grant.TTL > 0, grant.HeldFor
	case "extend":
		got.ok, err = n.store.Extend(t.Context(), st.req)
	case "release":
		st.req.Tokens = n.blocks[st.req.Owner] // all were used
		got.ok, err = n.store.Release(t.Context(), st.req)
	case "relay":
		st.from.Name, st.from.Tokens = n.name, n.blocks[st.from.Owner]
		got.held, grant, err = n.store.(lock.Relay).Relay(t.Context(), st.from, st.req)
		got.ok, got.wait = grant.Acquired, grant.HeldFor
	}
	s.to = time.Now()
	if err != nil && s.to.Sub(s.from) >= st.req.TTL {
		return modelAnswer{}, "", false
	}
	require.NoError(r, err, "%+v", st)
	switch {
	case st.op == "release" || st.op == "relay" && (!grant.Acquired || !st.req.Shared):
		got.woken = n.woken()
		if grant.Acquired {
			n.blocks[st.req.Owner] = st.req.Tokens
		}
	case grant.Acquired:
		// A shared lease wakes the next in the queue, as several can end
		// together. That is no answer to a release that follows.
		n.woken()
		n.blocks[st.req.Owner] = st.req.Tokens
	}

	n.end(s)
	before := n.may
	n.may = nil
	for _, l := range before {
		if after, ok := l.after(st, got, s); ok {
			n.may = append(n.may, after)
		}
	}
	if len(n.may) == 0 {
		r.Fatalf("%T: %+v\nsays %+v, which it can not, of either of %v", n.store, st, got, before)
	}
	if grant.Acquired {
		first, repeat := n.tokens[st.req.Owner]
		if repeat = repeat && indexOfEntry(before[0].leases, st.req.Owner) >= 0; repeat && grant.Token < first || !repeat && grant.Token <= n.last {
			r.Fatalf("%T: %+v\nhas the token %d, the last one given out was %d", n.store, st, grant.Token, n.last)
		}
		n.tokens[st.req.Owner] = grant.Token
		n.last = max(n.last, grant.Token+uint64(max(st.req.Tokens, 1))-1)
	}
	if len(before) == 1 {
		of = before[0].String()
	}
	return got, of, true
}

// woken returns who has been woken since it was last asked.
func (n *modelName) woken() string {
	n.arrive()
	owners := []string{}
	for owner, turn := range n.turns {
		select {
		case <-turn:
			owners = append(owners, owner)
		default:
		}
	}
	slices.Sort(owners)
	return fmt.Sprint(owners)
}

// onRedis returns a name in Redis. A wake-up comes when it comes, but in its
// order: when one that is sent after it is there, so is every one from before,
// and nobody else was woken.
func onRedis(t *testing.T, r *rapid.T, rdb redis.UniversalClient, prefix, name string) *modelName {
	n := &modelName{name: name, store: storeOn(rdb, prefix), gives: true, may: make([]modelLock, 1), tokens: map[string]uint64{}, blocks: map[string]int{}, turns: map[string]<-chan struct{}{}}
	last, stop, err := n.store.Watch(t.Context(), name, "the last one")
	require.NoError(r, err)
	r.Cleanup(stop)
	key := prefix + "{" + name + "}"
	n.arrive = func() {
		// By a script, so that a Cluster sends it the same way.
		err := publishScript.Run(t.Context(), rdb, []string{key}, key+":turn", "the last one").Err()
		require.NoError(r, err)
		select {
		case <-last:
		case <-time.After(30 * time.Second):
			r.Fatal("the wake-up that was sent last has not come in time")
		}
	}
	return n
}

var publishScript = redis.NewScript(`return redis.call('PUBLISH', ARGV[1], ARGV[2])`)

func inMemory(store lock.Store, name string) *modelName {
	return &modelName{
		name: name, store: store, may: make([]modelLock, 1), tokens: map[string]uint64{}, blocks: map[string]int{}, turns: map[string]<-chan struct{}{},
		arrive: func() {}, // they are there before Release returns
	}
}

// Redis and the memory store, step by step against one another and the model.
func TestStoresAgainstAModel(t *testing.T) {
	t.Run("standalone", func(t *testing.T) { testStoresAgainstAModel(t, redistest.Standalone(t).Client(t)) })
	t.Run("cluster", func(t *testing.T) { testStoresAgainstAModel(t, redistest.SharedCluster(t).Client(t)) })
}

func testStoresAgainstAModel(t *testing.T, rdb redis.UniversalClient) {
	t.Parallel() // it sleeps much of the time
	prefix := redistest.Prefix(t)
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		memory := lock.NewMemoryStore()
		type pair struct{ redis, memory *modelName }
		names := []pair{}
		for i := range 2 {
			name := fmt.Sprint(runs, ".", i)
			names = append(names, pair{onRedis(t, r, rdb, prefix, name), inMemory(memory, name)})
		}
		// An owner asks for one kind of lease only, and once it has released
		// another comes in its place.
		kinds := []lock.Request{
			{Owner: "x"},
			{Owner: "y"},
			{Owner: "z"},
			{Owner: "g"}, // may be given a lease
			{Owner: "gg"},
			{Owner: "r", Shared: true},
			{Owner: "s", Shared: true},
			{Owner: "p", Shared: true, Limit: 2},
			{Owner: "q", Shared: true, Limit: 2},
			{Owner: "o", Shared: true, Limit: 2},
		}
		lives := map[string]int{}
		released := map[*modelName]lock.Request{}
		outcomes := map[*modelName]modelAnswer{}
		lasts := rapid.SampledFrom([]time.Duration{20 * time.Millisecond, 40 * time.Millisecond, time.Minute, time.Hour})
		for range rapid.IntRange(1, 80).Draw(r, "steps") {
			on := names[rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(r, "name")]
			req := rapid.SampledFrom(kinds).Draw(r, "kind")
			life := fmt.Sprint(on.redis.name, req.Owner)
			req.Owner = fmt.Sprint(req.Owner, lives[life])
			req.TTL = lasts.Draw(r, "ttl")
			st := modelStep{req: req}
			switch op := rapid.SampledFrom([]string{"try", "try", "wait for it", "wait for it", "wait for it", "extend", "release", "release", "relay", "relay", "again", "time"}).Draw(r, "step"); op {
			case "relay":
				from := rapid.SampledFrom(kinds).Draw(r, "from")
				life := fmt.Sprint(on.redis.name, from.Owner)
				from.Owner = fmt.Sprint(from.Owner, lives[life])
				if from.Owner == req.Owner {
					continue // it would have released already
				}
				lives[life]++
				from.TTL = req.TTL
				st.op, st.from, st.req.Place = op, from, lasts.Draw(r, "place")
			case "wait for it":
				st.req.Place = lasts.Draw(r, "place")
				fallthrough
			case "try":
				// So many that the clock alone would give some of them out twice.
				st.op, st.req.Tokens = "acquire", rapid.SampledFrom([]int{0, 1, 2, 100_000_000}).Draw(r, "tokens")
			case "release":
				lives[life]++
				st.op = op
			case "extend":
				st.op = op
			case "again":
				// The last release comes again, and what it has overtaken. The
				// memory store is never asked twice.
				if req, ok := released[on.redis]; ok {
					held, err := on.redis.store.Release(t.Context(), req)
					require.NoError(r, err)
					require.Equal(r, outcomes[on.redis].ok, held, "the second release of %q must say what the first did", req.Owner)
					held, err = on.redis.store.Extend(t.Context(), req)
					require.NoError(r, err)
					require.False(r, held, "%q has released its lease, and can not extend it", req.Owner)
					req.TTL = time.Hour
					_, err = on.redis.store.TryAcquire(t.Context(), req)
					require.ErrorContains(r, err, "released")
				}
				continue
			case "time":
				if rapid.Bool().Draw(r, "short") {
					time.Sleep(rapid.SampledFrom([]time.Duration{5 * time.Millisecond, 25 * time.Millisecond}).Draw(r, "time"))
				}
				continue
			}
			inRedis, of, ok := on.redis.do(t, r, st)
			if !ok {
				return
			}
			inMemory, ofMemory, _ := on.memory.do(t, r, st)
			// Otherwise something has ended in between, or may have.
			if of == ofMemory && of != "" {
				// Only Redis gives leases before they are asked for, and as late as it is asked.
				inMemory.wait, inRedis.wait, inRedis.given = 0, 0, false
				require.Equal(r, inMemory, inRedis, "%+v of %s", st, of)
			}
			switch st.op {
			case "relay":
				released[on.redis], outcomes[on.redis] = lock.Request{Name: on.redis.name, Owner: st.from.Owner, TTL: st.req.TTL, Shared: st.from.Shared, Limit: st.from.Limit}, modelAnswer{ok: inRedis.held}
			case "release":
				released[on.redis], outcomes[on.redis] = lock.Request{Name: on.redis.name, Owner: st.req.Owner, TTL: st.req.TTL, Shared: st.req.Shared, Limit: st.req.Limit}, inRedis
			}
		}
	})
}

// A permit that has ended stays in Redis until somebody asks, and must be in nobody's
// way until then.
func TestAReleaseWakesThoseForWhomOthersHaveMadeRoomBefore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		store := storeOn(rdb, redistest.Prefix(t))
		dead := lock.Request{Name: "n", Owner: "dead", TTL: 100 * time.Millisecond, Shared: true, Limit: 2}
		holder := lock.Request{Name: "n", Owner: "holder", TTL: time.Minute, Shared: true, Limit: 2}
		waiter := lock.Request{Name: "n", Owner: "waiter", TTL: time.Minute, Place: time.Minute}
		turn, stop, err := store.Watch(within(t), "n", waiter.Owner)
		require.NoError(t, err)
		defer stop()
		for _, req := range []lock.Request{holder, dead, waiter} {
			grant, err := store.TryAcquire(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, req.Shared, grant.Acquired)
		}
		time.Sleep(2 * dead.TTL)
		_, err = store.Release(t.Context(), holder)
		require.NoError(t, err)
		select {
		case <-turn:
		case <-time.After(10 * time.Second):
			t.Error("there is room, and the waiter was not woken")
		}
	})
}

// The server's clock is set back by an hour, as far as the queue can tell: whoever
// came before that is ahead of those who come after it all the same.
func TestTheQueueKeepsItsOrderWhenTheClockIsSetBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		try := func(owner string) bool {
			t.Helper()
			grant, err := store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: owner, TTL: time.Minute, Place: time.Minute})
			require.NoError(t, err)
			return grant.Acquired
		}
		release := func(owner string) {
			t.Helper()
			_, err := store.Release(t.Context(), lock.Request{Name: "n", Owner: owner, TTL: time.Minute})
			require.NoError(t, err)
		}
		require.True(t, try("holder"))
		require.False(t, try("z"))
		require.False(t, try("y"))
		queue := prefix + "{n}:queue"
		for _, member := range rdb.ZRange(t.Context(), queue, 0, -1).Val() {
			require.NoError(t, rdb.ZIncrBy(t.Context(), queue, float64(time.Hour.Microseconds()), member).Err())
		}
		later := []string{"d", "c", "b", "a"} // not in the order in which Redis has what came together
		for _, owner := range later {
			require.False(t, try(owner))
		}
		release("holder")
		for i, owner := range append([]string{"z", "y"}, later...) {
			for _, behind := range append([]string{"z", "y"}, later...)[i+1:] {
				require.False(t, try(behind), "it is the turn of %q, not %q", owner, behind)
			}
			require.True(t, try(owner))
			release(owner)
		}
	})
}
