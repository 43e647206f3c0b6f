package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

func TestStandaloneIsOneForAll(t *testing.T) {
	t.Parallel()
	pids := make([]int, 8)
	var wg sync.WaitGroup
	for i := range pids {
		wg.Go(func() { pids[i] = redistest.Standalone(t).PID() })
	}
	wg.Wait()
	for _, pid := range pids {
		require.Equal(t, pids[0], pid, "callers got different servers")
	}
}

func TestStandaloneServes(t *testing.T) {
	t.Parallel()
	s := redistest.Standalone(t)
	ctx, key := soon(t), redistest.Prefix(t)+"k"
	rdb := s.Client(t)
	require.NoError(t, rdb.Set(ctx, key, "v", time.Minute).Err())

	options, err := redis.ParseURL(s.URL())
	require.NoError(t, err)
	require.Equal(t, s.Addr(), options.Addr)
	other := redis.NewClient(options)
	defer other.Close()
	require.Equal(t, "v", other.Get(ctx, key).Val())
}

func TestServerListensOnLoopbackOnlyAndPersistsNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.Standalone(t).Client(t)
	config := rdb.ConfigGet(soon(t), "*").Val()
	require.Equal(t, "127.0.0.1", config["bind"])
	require.Empty(t, config["save"])
	require.Equal(t, "no", config["appendonly"])
}

func TestClientIsClosedWithTheTest(t *testing.T) {
	t.Parallel()
	s := redistest.Standalone(t)
	var rdb *redis.Client
	t.Run("test", func(t *testing.T) {
		rdb = s.Client(t)
		require.NoError(t, rdb.Ping(soon(t)).Err())
	})
	require.ErrorIs(t, rdb.Ping(soon(t)).Err(), redis.ErrClosed)
}

func TestNewStandaloneEndsWithTheTest(t *testing.T) {
	t.Parallel()
	var pid int
	t.Run("test", func(t *testing.T) {
		s := redistest.NewStandalone(t)
		require.NotEqual(t, redistest.Standalone(t).PID(), s.PID())
		pid = s.PID()
		require.False(t, redistest.Gone(pid))
	})
	require.True(t, redistest.Gone(pid), "the server outlived its test")
}

func TestNewStandaloneEndsAlsoWhenStopped(t *testing.T) {
	t.Parallel()
	var pid int
	t.Run("test", func(t *testing.T) {
		s := redistest.NewStandalone(t)
		s.Stop(t)
		pid = s.PID()
	})
	require.True(t, redistest.Gone(pid), "the server outlived its test")
}

func TestNewStandaloneTakesOptions(t *testing.T) {
	t.Parallel()
	rdb := redistest.NewStandalone(t, "--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru").Client(t)
	config := rdb.ConfigGet(soon(t), "maxmemory*").Val()
	require.Equal(t, "10485760", config["maxmemory"])
	require.Equal(t, "allkeys-lru", config["maxmemory-policy"])
}

func TestKill(t *testing.T) {
	t.Parallel()
	s := redistest.NewStandalone(t)
	s.Kill(t)
	require.True(t, redistest.Gone(s.PID()))
	_, err := net.DialTimeout("tcp", s.Addr(), 10*time.Second)
	require.Error(t, err, "somebody listens on a killed server's port")
	s.Kill(t) // no harm
}

// A stopped server does not answer within 200 ms; after Continue it does, on
// the same connection.
func TestStopAndContinue(t *testing.T) {
	t.Parallel()
	s := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer rdb.Close()
	require.NoError(t, rdb.Ping(soon(t)).Err())
	for range 3 {
		s.Stop(t)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := rdb.Ping(ctx).Err()
		require.True(t, isTimeout(err), "got %v from a stopped server, want a timeout", err)
		cancel()
		s.Continue(t)
		require.NoError(t, rdb.Ping(soon(t)).Err())
	}
	s.Continue(t) // no harm
}

func TestRestartLosesTheData(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		before func(*redistest.Server)
	}{
		{"running", func(*redistest.Server) {}},
		{"killed", func(s *redistest.Server) { s.Kill(t) }},
		{"stopped", func(s *redistest.Server) { s.Stop(t) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := redistest.NewStandalone(t, "--maxmemory", "10mb")
			addr, pid, rdb := s.Addr(), s.PID(), s.Client(t)
			require.NoError(t, rdb.Set(soon(t), "k", "v", 0).Err())
			test.before(s)
			s.Restart(t)
			require.Equal(t, addr, s.Addr())
			require.NotEqual(t, pid, s.PID())
			require.True(t, redistest.Gone(pid))
			rdb = s.Client(t)
			require.Zero(t, rdb.DBSize(soon(t)).Val(), "data survived")
			require.Equal(t, "10485760", rdb.ConfigGet(soon(t), "maxmemory").Val()["maxmemory"], "options did not survive")
		})
	}
}

// Another process may take a port between the look at it and the start.
func TestStartTriesAnotherPort(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		offset int
		args   []string
	}{
		{"standalone", 0, nil},
		{"cluster node", 0, []string{"--cluster-enabled", "yes"}},
		{"cluster bus", 10000, []string{"--cluster-enabled", "yes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			taken, unused := freePort(t), freePort(t)
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", taken+test.offset))
			require.NoError(t, err)
			defer l.Close()
			got, err := redistest.StartOn([]int{taken, unused}, test.args...)
			require.NoError(t, err)
			require.Equal(t, unused, got)
		})
	}
}

// Nor is a stranger's redis-server on the port taken for the own one.
func TestStartIsNotFooledByAnotherServer(t *testing.T) {
	t.Parallel()
	var taken int
	_, err := fmt.Sscanf(redistest.Standalone(t).Addr(), "127.0.0.1:%d", &taken)
	require.NoError(t, err)
	unused := freePort(t)
	got, err := redistest.StartOn([]int{taken, unused})
	require.NoError(t, err)
	require.Equal(t, unused, got)
}

// A failure that another port does not cure is reported at once, with what the
// server said.
func TestStartReportsTheServersOutput(t *testing.T) {
	t.Parallel()
	_, err := redistest.StartOn([]int{freePort(t), freePort(t)}, "--no-such-option", "1")
	require.ErrorContains(t, err, "redistest: ")
	require.ErrorContains(t, err, "no-such-option")
	require.ErrorContains(t, err, "Bad directive")
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := redistest.FreePort()
	require.NoError(t, err)
	return port
}

func TestPortsAreHandedOutOnce(t *testing.T) {
	t.Parallel()
	seen := make(map[int]bool)
	for range 50 {
		port := freePort(t)
		require.False(t, seen[port], "port %d was handed out twice", port)
		seen[port] = true
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
