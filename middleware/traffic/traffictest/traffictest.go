// Package traffictest states what a traffic.Store has to do, as tests.
package traffictest

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Run tests the stores that newStore returns. Each test asks for one of its own,
// which is empty.
func Run(t *testing.T, newStore func(t *testing.T) traffic.Store) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			f := &fixture{T: t, store: newStore(t), node: rand.Text()}
			_, now, err := f.store.Salt(t.Context(), 0)
			require.NoError(t, err)
			f.minute = traffic.BucketOf(traffic.UnitMinute, now)
			defer func() {
				if t.Failed() {
					t.Logf("the rule: %s", r.rule)
				}
			}()
			r.test(f)
		})
	}
}

type rule struct {
	name, rule string
	test       func(f *fixture)
}

type fixture struct {
	*testing.T
	store  traffic.Store
	node   string
	seq    uint64
	minute traffic.Bucket
}

// apply sends the next batch.
func (f *fixture) apply(b traffic.Batch) traffic.Receipt {
	f.Helper()
	f.seq++
	b.Node, b.Seq = f.node, f.seq
	return f.send(b)
}

func (f *fixture) send(b traffic.Batch) traffic.Receipt {
	f.Helper()
	receipt, err := f.store.Apply(f.Context(), &b)
	require.NoError(f, err)
	require.WithinDuration(f, time.Now(), receipt.Now, time.Hour)
	require.Len(f, receipt.Boards, len(b.Boards))
	return receipt
}

// rows returns what is in a bucket, by kind and name.
func (f *fixture) rows(b traffic.Bucket) map[string]traffic.Counters {
	f.Helper()
	list, err := f.store.Counters(f.Context(), []traffic.Bucket{b})
	require.NoError(f, err)
	require.Len(f, list, 1)
	out := map[string]traffic.Counters{}
	for _, row := range list[0] {
		key := string(row.Kind) + " " + row.Name
		require.NotContains(f, out, key)
		out[key] = row.Counters
	}
	return out
}

func (f *fixture) visitors(group ...traffic.Bucket) uint64 {
	f.Helper()
	counts, err := f.store.Visitors(f.Context(), [][]traffic.Bucket{group})
	require.NoError(f, err)
	require.Len(f, counts, 1)
	return counts[0]
}

var all = traffic.Bucket{Unit: traffic.UnitAll}

func (f *fixture) board(capacity int, updates ...traffic.Update) []uint16 {
	f.Helper()
	receipt := f.apply(traffic.Batch{Boards: []traffic.BoardUpdate{{Board: "b", Bucket: all, Capacity: capacity, Updates: updates}}})
	require.Len(f, receipt.Boards[0].Admissions, len(updates))
	return receipt.Boards[0].Admissions
}

func (f *fixture) topOf(board string, b traffic.Bucket, n int) []traffic.Entry {
	f.Helper()
	lists, err := f.store.Top(f.Context(), []string{board}, b, n)
	require.NoError(f, err)
	require.Len(f, lists, 1)
	return lists[0]
}

func (f *fixture) top(want ...traffic.Entry) {
	f.Helper()
	for i := range want {
		want[i].Rank = i + 1
	}
	got := f.topOf("b", all, 1000)
	if len(want) == 0 {
		require.Empty(f, got)
		return
	}
	require.Equal(f, want, got)
}

// slice returns a slice with one row, of n requests.
func (f *fixture) slice(name string, n uint64) traffic.Slice {
	return traffic.Slice{Minute: f.minute.N, Rows: []traffic.Row{route(name, n)}}
}

func route(name string, n uint64) traffic.Row {
	return traffic.Row{Kind: traffic.KindRoute, Name: name, Counters: traffic.Counters{Status: [5]uint64{1: n}}}
}

// everything returns counters that are all different, and large.
func everything(factor uint64) (c traffic.Counters) {
	for i := range c.Status {
		c.Status[i] = factor * uint64(i+1)
	}
	c.Bytes, c.Micros, c.CacheLookups, c.CacheHits = factor<<40, factor<<41, factor*11, factor*12
	for i := range c.Latency {
		c.Latency[i] = factor * uint64(i) << 30
	}
	return c
}

// people returns the sketch of visitors from, from + 1, … to - 1.
func people(from, to int) *traffic.Sketch {
	s := new(traffic.Sketch)
	for i := from; i < to; i++ {
		s.Add(mix(uint64(i)))
	}
	return s
}

// mix is the finalizer of SplitMix64: it makes random bits of a number.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func about(f *fixture, want, got uint64) {
	f.Helper()
	require.InEpsilon(f, want, got, 0.02)
}

func candidate(member string, total int64) traffic.Update {
	return traffic.Update{Member: member, Delta: total, Total: total, Candidate: true}
}

var rules = []rule{
	{
		"a day has one salt",
		"Whoever asks first makes it, of 32 random bytes.",
		func(f *fixture) {
			day := f.minute.In(traffic.UnitDay).N
			var mu sync.Mutex
			salts := map[string]int{}
			var running sync.WaitGroup
			for range 20 {
				running.Go(func() {
					salt, now, err := f.store.Salt(f.Context(), day+1) // not the present one, which could end here
					assert.NoError(f, err)
					assert.Len(f, salt, 32)
					assert.WithinDuration(f, time.Now(), now, time.Hour)
					mu.Lock()
					defer mu.Unlock()
					salts[string(salt)]++
				})
			}
			running.Wait()
			require.Len(f, salts, 1)
			other, _, err := f.store.Salt(f.Context(), day+2)
			require.NoError(f, err)
			require.NotContains(f, salts, string(other))
		},
	},
	{
		"a salt does not outlive its day",
		"The store forgets it when the day is over.",
		func(f *fixture) {
			day := f.minute.In(traffic.UnitDay).N - 2
			first, _, err := f.store.Salt(f.Context(), day)
			require.NoError(f, err)
			second, _, err := f.store.Salt(f.Context(), day)
			require.NoError(f, err)
			require.NotEqual(f, first, second, "that of a day that is over is not kept")
		},
	},
	{
		"counters add up, by minute, hour and day",
		"Apply adds a batch. Counters returns what was counted in each of the buckets.",
		func(f *fixture) {
			require.Empty(f, f.rows(f.minute))
			first := traffic.Slice{Minute: f.minute.N, Rows: []traffic.Row{
				{Kind: traffic.KindRoute, Name: "GET /{$}", Counters: everything(1)},
				{Kind: traffic.KindRoute, Name: "", Counters: everything(2)},
				{Kind: traffic.KindNode, Name: "GET /{$}", Counters: everything(3)},
				{Kind: traffic.KindRoute, Name: traffic.Other, Counters: everything(4)},
			}}
			second := traffic.Slice{Minute: f.minute.N, Rows: []traffic.Row{
				{Kind: traffic.KindRoute, Name: "GET /é", Counters: everything(5)},
				{Kind: traffic.KindRoute, Name: "GET /{$}", Counters: everything(6)},
			}}
			f.apply(traffic.Batch{Slices: []traffic.Slice{first}})
			f.apply(traffic.Batch{Slices: []traffic.Slice{second}})
			want := map[string]traffic.Counters{
				"r GET /{$}": everything(7), "r ": everything(2), "n GET /{$}": everything(3),
				"r " + traffic.Other: everything(4), "r GET /é": everything(5),
			}
			for _, u := range []traffic.Unit{traffic.UnitMinute, traffic.UnitHour, traffic.UnitDay} {
				require.Equal(f, want, f.rows(f.minute.In(u)))
			}
		},
	},
	{
		"slices of several minutes",
		"Slices are the counters, by minute.",
		func(f *fixture) {
			hour := f.minute.In(traffic.UnitHour)
			from := traffic.BucketOf(traffic.UnitMinute, hour.Start()).N - 1 // the last one of the hour before
			var b traffic.Batch
			for i := range 5 {
				s := f.slice("r", uint64(i+1))
				s.Minute = from + int64(i)
				b.Slices = append(b.Slices, s)
			}
			f.apply(b)
			buckets := []traffic.Bucket{hour, {Unit: traffic.UnitHour, N: hour.N - 1}, {Unit: traffic.UnitHour, N: hour.N + 1}}
			for i := range 5 {
				buckets = append(buckets, traffic.Bucket{Unit: traffic.UnitMinute, N: from + int64(i)})
			}
			list, err := f.store.Counters(f.Context(), buckets)
			require.NoError(f, err)
			var requests []uint64
			for _, rows := range list {
				var n uint64
				for _, row := range rows {
					n += row.Requests()
				}
				requests = append(requests, n)
			}
			require.Equal(f, []uint64{2 + 3 + 4 + 5, 1, 0, 1, 2, 3, 4, 5}, requests)
		},
	},
	{
		"a batch counts once",
		"A batch of the same node whose number is that of one that was applied already, or smaller, changes nothing.",
		func(f *fixture) {
			b := traffic.Batch{
				Node: f.node, Seq: 1, Slices: []traffic.Slice{f.slice("r", 1)},
				Boards: []traffic.BoardUpdate{{Board: "b", Bucket: all, Capacity: 10, Updates: []traffic.Update{candidate("m", 5), {Member: "n", Delta: 1, Total: 1}}}},
			}
			first := f.send(b)
			require.NotZero(f, first.Boards[0].Admissions[0])
			require.Zero(f, first.Boards[0].Admissions[1])
			again := f.send(b)
			require.Equal(f, first.Boards, again.Boards)
			late := b
			b.Seq = 2
			b.Boards = []traffic.BoardUpdate{{Board: "b", Bucket: all, Capacity: 10, Updates: []traffic.Update{{
				Member: "m", Delta: 2, Total: 7, Admission: first.Boards[0].Admissions[0], Candidate: true,
			}}}}
			f.send(b)
			f.send(late)
			f.send(b)
			require.Equal(f, uint64(2), f.rows(f.minute)["r r"].Status[1])
			f.top(traffic.Entry{Member: "m", Score: 7})
		},
	},
	{
		"nodes have numbers of their own",
		"Node names one run of a process. Seq numbers its batches, from 1.",
		func(f *fixture) {
			var running sync.WaitGroup
			for range 10 {
				running.Go(func() {
					node := rand.Text()
					for seq := range uint64(5) {
						_, err := f.store.Apply(f.Context(), &traffic.Batch{
							Node: node, Seq: seq + 1, Slices: []traffic.Slice{f.slice("r", 3)},
							Boards: []traffic.BoardUpdate{{Board: "b", Bucket: all, Capacity: 10, Updates: []traffic.Update{candidate(node, 1)}}},
						})
						assert.NoError(f, err)
					}
				})
			}
			running.Wait()
			require.Equal(f, uint64(150), f.rows(f.minute)["r r"].Status[1])
			list := f.topOf("b", all, 100)
			require.Len(f, list, 10)
		},
	},
	{
		"there is room for MaxRoutes routes and MaxNodes nodes a day",
		"What comes on top is counted in Other.",
		func(f *fixture) {
			s := traffic.Slice{Minute: f.minute.N}
			for i := range traffic.MaxRoutes {
				s.Rows = append(s.Rows, route(fmt.Sprint(i), 1))
			}
			f.apply(traffic.Batch{Slices: []traffic.Slice{s}})
			s.Rows = []traffic.Row{{Kind: traffic.KindNode, Name: "n", Counters: everything(1)}}
			for i := range traffic.MaxNodes - 1 {
				s.Rows = append(s.Rows, traffic.Row{Kind: traffic.KindNode, Name: fmt.Sprint(i), Counters: everything(1)})
			}
			f.apply(traffic.Batch{Slices: []traffic.Slice{s}})
			late := traffic.Slice{Minute: f.minute.N, Rows: []traffic.Row{
				route("late", 1), route("later", 2), route("7", 5), {Kind: traffic.KindNode, Name: "late", Counters: everything(2)},
			}}
			f.apply(traffic.Batch{Slices: []traffic.Slice{late}})
			rows := f.rows(f.minute.In(traffic.UnitDay))
			require.Len(f, rows, traffic.MaxRoutes+traffic.MaxNodes+2)
			require.Equal(f, uint64(3), rows["r "+traffic.Other].Status[1])
			require.Equal(f, everything(2), rows["n "+traffic.Other])
			require.Equal(f, uint64(6), rows["r 7"].Status[1])
			require.Equal(f, everything(1), rows["n n"])
		},
	},
	{
		"visitors are counted once in a group",
		"Visitors returns how many visitors there were in each of the groups of buckets, each counted once in a group.",
		func(f *fixture) {
			next := traffic.Bucket{Unit: traffic.UnitMinute, N: f.minute.N + 1}
			require.Zero(f, f.visitors(f.minute, next))
			require.Zero(f, f.visitors())
			f.apply(traffic.Batch{Slices: []traffic.Slice{{Minute: f.minute.N, Visitors: people(0, 3)}}})
			f.apply(traffic.Batch{Slices: []traffic.Slice{{Minute: f.minute.N, Visitors: people(2, 5)}}})
			require.Equal(f, uint64(5), f.visitors(f.minute), "few are exact")
			f.apply(traffic.Batch{Slices: []traffic.Slice{{Minute: f.minute.N, Visitors: people(0, 20_000)}, {Minute: next.N, Visitors: people(10_000, 30_000)}}})
			f.apply(traffic.Batch{Slices: []traffic.Slice{{Minute: f.minute.N, Visitors: people(0, 10)}}})
			counts, err := f.store.Visitors(f.Context(), [][]traffic.Bucket{{f.minute}, {next}, {f.minute, next}, {}, {f.minute.In(traffic.UnitDay), next.In(traffic.UnitDay)}})
			require.NoError(f, err)
			require.Len(f, counts, 5)
			for i, want := range []uint64{20_000, 20_000, 30_000, 0, 30_000} {
				if want == 0 {
					require.Zero(f, counts[i])
				} else {
					about(f, want, counts[i])
				}
			}
		},
	},
	{
		"sketches of every size and register",
		"A Sketch is a set of which only the size can be told.",
		func(f *fixture) {
			var want traffic.Sketch
			for i, s := range []*traffic.Sketch{
				new(traffic.Sketch), people(0, 1), people(0, 64), people(100, 700), people(0, 3000), people(0, 9000),
			} {
				if i == 2 {
					s[0], s[1<<14-1], s[77] = 1, 51, 33 // as far as it goes
				}
				f.apply(traffic.Batch{Slices: []traffic.Slice{{Minute: f.minute.N, Visitors: s}}})
				want.Merge(s)
				require.InDelta(f, want.Count(), f.visitors(f.minute), 1, "after sketch %d", i)
			}
			random := make([]byte, len(want))
			_, _ = rand.Read(random)
			for i, r := range random {
				want[i] = r % 52
			}
			next := traffic.Bucket{Unit: traffic.UnitMinute, N: f.minute.N + 1}
			f.apply(traffic.Batch{Slices: []traffic.Slice{{Minute: next.N, Visitors: &want}}})
			require.InEpsilon(f, want.Count(), f.visitors(next), 1e-9)
		},
	},
	{
		"members are ranked by score",
		"Top returns the n members of a board with the largest scores, the largest first.",
		func(f *fixture) {
			f.top()
			f.board(10, candidate("b", 2), candidate("a", 1), candidate("é {x}", 3), candidate("minus", -4), candidate("zero", 0))
			f.top(traffic.Entry{Member: "é {x}", Score: 3}, traffic.Entry{Member: "b", Score: 2}, traffic.Entry{Member: "a", Score: 1},
				traffic.Entry{Member: "zero"}, traffic.Entry{Member: "minus", Score: -4})
			list := f.topOf("b", all, 2)
			require.Equal(f, []traffic.Entry{{Rank: 1, Member: "é {x}", Score: 3}, {Rank: 2, Member: "b", Score: 2}}, list)
			for _, n := range []int{0, -1} {
				list = f.topOf("b", all, n)
				require.Empty(f, list)
			}
			list = f.topOf("b", f.minute, 10)
			require.Empty(f, list, "another bucket is another board")
			list = f.topOf("c", all, 10)
			require.Empty(f, list)
			lists, err := f.store.Top(f.Context(), []string{"c", "b", "d"}, all, 1)
			require.NoError(f, err)
			require.Len(f, lists, 3)
			require.Empty(f, lists[0])
			require.Equal(f, []traffic.Entry{{Rank: 1, Member: "é {x}", Score: 3}}, lists[1])
			require.Empty(f, lists[2])
		},
	},
	{
		"around a member",
		"Around returns a member of a board with up to n members before and after it, in the order of Top.",
		func(f *fixture) {
			var updates []traffic.Update
			for i := range 9 {
				updates = append(updates, candidate(string(rune('a'+i)), int64(9-i)))
			}
			f.board(10, updates...)
			for _, tt := range []struct {
				member string
				n      int
				want   string
				rank   int
			}{
				{"e", 2, "cdefg", 3},
				{"a", 2, "abc", 1},
				{"i", 2, "ghi", 7},
				{"e", 0, "e", 5},
				{"e", 100, "abcdefghi", 1},
				{"z", 3, "", 0},
			} {
				list, err := f.store.Around(f.Context(), "b", all, tt.member, tt.n)
				require.NoError(f, err)
				got := ""
				for i, e := range list {
					require.Equal(f, tt.rank+i, e.Rank)
					require.Equal(f, int64(10-e.Rank), e.Score)
					got += e.Member
				}
				require.Equal(f, tt.want, got)
			}
		},
	},
	{
		"who is no candidate stays out",
		"If it is not there it is admitted with Total if it is a Candidate, else it stays out.",
		func(f *fixture) {
			got := f.board(10, candidate("in", 5), traffic.Update{Member: "out", Delta: 4, Total: 4})
			require.NotZero(f, got[0])
			require.Zero(f, got[1])
			f.top(traffic.Entry{Member: "in", Score: 5})
		},
	},
	{
		"what was sent before a member was forgotten is sent again",
		"If the member is there with another admission, what the node has sent before is gone, and Total is added.",
		func(f *fixture) {
			first := f.board(1, candidate("m", 5), candidate("x", 10))
			require.NotZero(f, first[0])
			got := f.board(1, traffic.Update{Member: "m", Delta: 1, Total: 6, Admission: first[0]}, candidate("y", 20))
			require.Zero(f, got[0], "there were more than half as many again as there is room for")
			f.top(traffic.Entry{Member: "y", Score: 20})
			// The node that sees the loss first admits it again, ...
			got = f.board(1, candidate("m", 30))
			require.NotZero(f, got[0])
			require.NotEqual(f, first[0], got[0])
			// ... another one has the admission from before, ...
			second := f.board(1, traffic.Update{Member: "m", Delta: 1, Total: 100, Admission: first[0]})
			require.Equal(f, got, second)
			// ... and a third one knows of it.
			f.board(1, traffic.Update{Member: "m", Delta: 7, Total: 1000, Admission: second[0]})
			f.top(traffic.Entry{Member: "m", Score: 137}, traffic.Entry{Member: "y", Score: 20})
		},
	},
	{
		"a board is bounded",
		"It forgets those with the smallest scores when there are more than half as many again.",
		func(f *fixture) {
			var updates []traffic.Update
			for i := range 2000 {
				updates = append(updates, candidate(fmt.Sprint(i), int64(i)))
			}
			f.board(100, updates[:150]...)
			list := f.topOf("b", all, 3000)
			require.Len(f, list, 150)
			f.board(100, updates[150:]...)
			list = f.topOf("b", all, 3000)
			require.GreaterOrEqual(f, len(list), 100)
			require.LessOrEqual(f, len(list), 150)
			for i, e := range list[:100] {
				require.Equal(f, int64(1999-i), e.Score)
			}
		},
	},
	{
		"a board tells how often it forgot members",
		"Trims is how often members of the board were forgotten.",
		func(f *fixture) {
			trims := func(updates ...traffic.Update) uint64 {
				receipt := f.apply(traffic.Batch{Boards: []traffic.BoardUpdate{{Board: "b", Bucket: all, Capacity: 2, Updates: updates}}})
				return receipt.Boards[0].Trims
			}
			require.Zero(f, trims(candidate("a", 1), candidate("b", 2), candidate("c", 3)))
			require.Equal(f, uint64(1), trims(candidate("d", 4)))
			require.Equal(f, uint64(1), trims(candidate("e", 5)))
			require.Equal(f, uint64(2), trims(candidate("f", 6)))
			f.top(traffic.Entry{Member: "f", Score: 6}, traffic.Entry{Member: "e", Score: 5})
		},
	},
	{
		"large scores are exact",
		"Scores end at 2^40.",
		func(f *fixture) {
			const large = 1<<40 - 3
			got := f.board(10, candidate("m", large), candidate("minus", -large))
			f.board(10, traffic.Update{Member: "m", Delta: 1, Total: large + 1, Admission: got[0]}, traffic.Update{Member: "minus", Delta: 1, Total: 1 - large, Admission: got[1]})
			f.top(traffic.Entry{Member: "m", Score: large + 1}, traffic.Entry{Member: "minus", Score: 1 - large})
		},
	},
	{
		"scores of several nodes end as well",
		"Scores end at 2^40, also where several nodes have as much, and a member keeps its admission then.",
		func(f *fixture) {
			const most = 1 << 40
			got := f.board(10, candidate("m", most+5), candidate("minus", -most-5))
			for i := range 8 {
				known := got
				if i%2 > 0 { // a node that has heard of neither
					known = []uint16{0, 0}
				}
				again := f.board(10, traffic.Update{Member: "m", Delta: most, Total: most, Admission: known[0]},
					traffic.Update{Member: "minus", Delta: -most, Total: -most, Admission: known[1]})
				require.Equal(f, got, again)
				f.top(traffic.Entry{Member: "m", Score: most}, traffic.Entry{Member: "minus", Score: -most})
			}
			f.board(10, traffic.Update{Member: "m", Delta: -1, Admission: got[0]}, traffic.Update{Member: "minus", Delta: 1, Admission: got[1]})
			f.top(traffic.Entry{Member: "m", Score: most - 1}, traffic.Entry{Member: "minus", Score: 1 - most})
		},
	},
	{
		"a context that is done",
		"A call with a context that is done is an error.",
		func(f *fixture) {
			done, cancel := context.WithCancel(f.Context())
			cancel()
			_, _, err := f.store.Salt(done, 0)
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Apply(done, &traffic.Batch{Node: f.node, Seq: 1, Slices: []traffic.Slice{f.slice("r", 1)}})
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Counters(done, []traffic.Bucket{f.minute})
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Visitors(done, [][]traffic.Bucket{{f.minute}})
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Top(done, []string{"b"}, all, 1)
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Around(done, "b", all, "m", 1)
			require.ErrorIs(f, err, context.Canceled)
		},
	},
}
