package redistraffic_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func soak() bool { return os.Getenv("HERDLESS_SOAK") != "" }

func newRecorder(t testing.TB, rdb redistraffic.Client, o redistraffic.Options, node string) *traffic.Recorder {
	t.Helper()
	r, err := traffic.New(redistraffic.New(rdb, &o), &traffic.Options{
		Node: node, Interval: 1000 * time.Hour, Timeout: time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Close(ctx)
	})
	return r
}

const (
	paths = 200_000
	zipf  = 1.05
)

// load makes requests: paths after Zipf's law, by a seed that is always the same.
type load struct {
	random *rand.Rand
	zipf   *rand.Zipf
	// drift is after how many requests each path takes the place of the one
	// before it in rank, jump after how many all ranks go to other paths; 0 for
	// never.
	drift, jump int
	// attack is how many of a hundred requests are for a path that nobody has
	// ever asked for.
	attack int
	n      int
}

func newLoad(seed uint64, attack int) *load {
	random := rand.New(rand.NewPCG(seed, 7))
	return &load{random: random, zipf: rand.NewZipf(random, zipf, 1, paths-1), attack: attack}
}

func (l *load) next() string {
	l.n++
	if l.random.IntN(100) < l.attack {
		return fmt.Sprintf("/wp-%x", l.random.Uint64())
	}
	place := int(l.zipf.Uint64())
	if l.drift > 0 {
		place += l.n / l.drift
	}
	if l.jump > 0 {
		place += l.n / l.jump * 7919
	}
	return fmt.Sprintf("/product/%d", place%paths)
}

// per returns after how many of n something happens that happens so many times.
func per(n, times int) int {
	if times == 0 {
		return 0
	}
	return n / times
}

// TestTheTopIsExact: many more paths than there is room for, on three nodes, and all
// counts are exact, and those who are on top are on top.
func TestTheTopIsExact(t *testing.T) {
	requests := 60_000
	if soak() {
		requests = 1_000_000
	}
	for _, tt := range []struct {
		name   string
		drift  int // in places over the whole run
		jumps  int // to other paths altogether
		attack int // percent
		always bool
	}{
		{"steady", 0, 0, 0, true},
		{"drifting", 100, 0, 0, false},
		{"drifting fast", 300, 0, 0, false},
		{"jumping", 0, 5, 0, false},
		{"unique paths", 0, 0, 50, false},
		{"drifting, among unique paths", 100, 0, 50, true},
		{"jumping, among unique paths", 0, 10, 50, true},
	} {
		if !soak() && !tt.always {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			server := redistest.NewStandalone(t)
			rdb := server.Client(t)
			var nodes []*traffic.Recorder
			for i := range 3 {
				nodes = append(nodes, newRecorder(t, rdb, redistraffic.Options{}, fmt.Sprint("web", i)))
			}
			l := newLoad(uint64(requests), tt.attack)
			l.drift, l.jump = per(requests, tt.drift), per(requests, tt.jumps)
			exact := map[string]int64{}
			from := time.Now().Add(-time.Minute)
			const settling = 3 * 3 * 300
			for i := range requests + settling {
				path := l.next()
				exact[path]++
				status := 200
				if i%10 == 0 {
					status = 404
				}
				node := nodes[i%len(nodes)]
				node.Record(traffic.Hit{
					Route: "GET /product/{id}", Path: path, Status: status, Bytes: 10, Latency: time.Millisecond,
					Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
				})
				batch := 5000 // about what comes in a second
				if i >= requests {
					batch = 300
				}
				if (i/len(nodes)+1)%batch == 0 {
					require.NoError(t, node.Flush(t.Context()))
				}
			}
			for _, node := range nodes {
				require.NoError(t, node.Flush(t.Context()))
			}
			requests := requests + settling

			report, err := nodes[0].Report(t.Context(), from, time.Now().Add(time.Minute), traffic.UnitMinute)
			require.NoError(t, err)
			assert.Equal(t, [5]uint64{1: uint64(requests - requests/10), 3: uint64(requests / 10)}, report.Total.Status)
			assert.Equal(t, uint64(10*requests), report.Total.Bytes)
			require.Len(t, report.Nodes, 3)

			board, err := nodes[0].Board(traffic.PathsBoard, nil)
			require.NoError(t, err)
			top, err := board.Top(t.Context(), traffic.AllTime, 100)
			require.NoError(t, err)
			found, wrong := recall(exact, top)
			assert.Equal(t, 100, found, "recall of the top 100")
			keys := keyMemory(t, rdb)
			t.Logf("%d requests, %d paths: recall %d %%, %d of the scores not exact, %d KiB in Redis; %+v",
				requests, len(exact), found, wrong, keys>>10, nodes[0].Stats())
			assert.LessOrEqual(t, keys, int64(256<<10))
		})
	}
}

// recall returns how many of the hundred members with the largest counts are in top,
// where equal counts are as good as each other, and how many scores are not the count.
func recall(exact map[string]int64, top []traffic.Entry) (found, wrong int) {
	var counts []int64
	for _, n := range exact {
		counts = append(counts, n)
	}
	slices.SortFunc(counts, func(a, b int64) int { return cmp.Compare(b, a) })
	least := counts[99]
	for _, e := range top {
		if exact[e.Member] >= least {
			found++
		}
		if exact[e.Member] != e.Score {
			wrong++
		}
	}
	return found, wrong
}

// keyMemory returns what all keys take, but for those of minutes, hours and days before
// the last one: how many these are depends on how fast the test is, and when.
func keyMemory(t testing.TB, rdb *redis.Client) (sum int64) {
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	bucket := regexp.MustCompile(`:([mhd])(\d+)`)
	last := map[string]string{}
	for _, key := range keys {
		if m := bucket.FindStringSubmatch(key); m != nil && !strings.Contains(key, ":salt:") {
			last[m[1]] = max(last[m[1]], m[2])
		}
	}
	for _, key := range keys {
		if m := bucket.FindStringSubmatch(key); m != nil && m[2] < last[m[1]] {
			continue
		}
		n, err := rdb.MemoryUsage(t.Context(), key, 0).Result()
		require.NoError(t, err)
		sum += n
	}
	return sum
}
