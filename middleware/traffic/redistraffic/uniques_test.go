package redistraffic_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
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

// TestUniqueVisitors: three nodes see the same visitors in part, and count each once.
// The salt is always the same, so that the error is, too: it is a matter of luck, and
// 0.81 % is its standard deviation.
func TestUniqueVisitors(t *testing.T) {
	numbers := []int{10_000, 100_000}
	if soak() {
		numbers = append(numbers, 1_000_000)
	}
	for _, visitors := range numbers {
		t.Run(fmt.Sprint(visitors), func(t *testing.T) {
			t.Parallel()
			rdb, o := redistest.Standalone(t).Client(t), redistraffic.Options{Prefix: redistest.Prefix(t), Site: "t"}
			setSalts(t, rdb, o.Prefix+"{t}:")
			var nodes []*traffic.Recorder
			for i := range 3 {
				node := newRecorder(t, rdb, o, fmt.Sprint("web", i))
				require.NoError(t, node.Flush(t.Context()))
				nodes = append(nodes, node)
			}
			for i := range visitors * 3 / 2 { // half of them come to a second node
				var addr [4]byte
				binary.BigEndian.PutUint32(addr[:], uint32(10<<24+i%visitors))
				nodes[i%3].Record(traffic.Hit{Status: 200, Addr: netip.AddrFrom4(addr)})
				if i%(visitors/4) == 0 {
					require.NoError(t, nodes[i%3].Flush(t.Context()))
				}
			}
			for _, node := range nodes {
				require.NoError(t, node.Flush(t.Context()))
				require.Zero(t, node.Stats().UncountedVisitors)
			}
			report, err := nodes[0].Report(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Minute), traffic.UnitHour)
			require.NoError(t, err)
			t.Logf("%d visitors are counted as %d: %+.2f %%", visitors, report.Visitors, 100*float64(report.Visitors)/float64(visitors)-100)
			assert.InEpsilon(t, visitors, report.Visitors, 0.02)
		})
	}
}

// setSalts sets the salts of the days on which the test can be.
func setSalts(t *testing.T, rdb *redis.Client, prefix string) {
	t.Helper()
	today := traffic.BucketOf(traffic.UnitDay, time.Now()).N
	for _, day := range []int64{today, today + 1} {
		require.NoError(t, rdb.Set(t.Context(), fmt.Sprintf("%ssalt:d%d", prefix, day), bytes.Repeat([]byte{1}, 32), time.Hour).Err())
	}
}

// TestNothingOfAVisitorIsStored: neither addresses nor names, nor a salt for longer
// than its day.
func TestNothingOfAVisitorIsStored(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	node := newRecorder(t, rdb, redistraffic.Options{}, "web")
	require.NoError(t, node.Flush(t.Context()))
	addr := netip.MustParseAddr("203.0.113.77")
	node.Record(traffic.Hit{Status: 200, Path: "/", Addr: addr})
	node.Record(traffic.Hit{Status: 200, Path: "/", Addr: netip.MustParseAddr("2001:db8:aaaa:bbbb:cccc::1")})
	node.Record(traffic.Hit{Status: 200, Path: "/", Visitor: "ada@example.com"})
	require.NoError(t, node.Flush(t.Context()))
	raw := addr.As4()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	salts := 0
	for _, key := range keys {
		dump, err := rdb.Dump(t.Context(), key).Result()
		require.NoError(t, err)
		for _, secret := range []string{addr.String(), string(raw[:]), "2001:db8", "\x20\x01\x0d\xb8", "ada"} {
			assert.NotContains(t, dump, secret, key)
			assert.NotContains(t, key, secret)
		}
		if _, day, ok := strings.Cut(key, ":salt:d"); ok { // shortly before midnight the next one is there, too
			salts++
			left, err := rdb.PTTL(t.Context(), key).Result()
			require.NoError(t, err)
			n, err := strconv.ParseInt(day, 10, 64)
			require.NoError(t, err)
			midnight := traffic.Bucket{Unit: traffic.UnitDay, N: n + 1}.Start()
			assert.WithinDuration(t, midnight, time.Now().Add(left), time.Minute)
		}
	}
	assert.GreaterOrEqual(t, salts, 1)
}
