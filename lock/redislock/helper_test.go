package redislock_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// helperEnv makes the test binary another process that holds a lease; its value
// is what holdForEver needs.
const helperEnv = "HERDLESS_LOCK_HELPER"

func TestMain(m *testing.M) {
	if args := os.Getenv(helperEnv); args != "" {
		if err := holdForEver(strings.Fields(args)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(redistest.Run(m))
}

// holdForEver takes the lease "n", says its token on the standard output, and
// keeps it until the process ends, or its parent.
func holdForEver(args []string) error {
	rdb := redis.NewClient(&redis.Options{Addr: args[0]})
	locker, err := lock.New(redislock.New(rdb, &redislock.Options{Prefix: args[1]}), nil)
	if err != nil {
		return err
	}
	ttl, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	lease, err := locker.Acquire(context.Background(), "n", ttl)
	if err != nil {
		return err
	}
	fmt.Println(lease.Token())
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // ends with the parent
	return lease.Release(context.Background())
}

// startHolder starts a process that holds the lease "n", and returns it with its
// token once it does.
func startHolder(t *testing.T, addr, prefix string, ttl time.Duration) (*exec.Cmd, uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %v", helperEnv, addr, prefix, ttl))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	var token uint64
	_, err = fmt.Sscan(line, &token)
	require.NoError(t, err, "the other process says: %s", line)
	return cmd, token
}

// newLocker returns a Locker with a client of its own, as another server has.
func newLocker(t *testing.T, addr, prefix string) *lock.Locker {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = rdb.Close() })
	return lockerOn(t, rdb, prefix)
}

func lockerOn(t *testing.T, rdb redislock.Client, prefix string) *lock.Locker {
	t.Helper()
	locker, err := lock.New(redislock.New(rdb, &redislock.Options{Prefix: prefix}), nil)
	require.NoError(t, err)
	return locker
}

// another returns a client like rdb with connections of its own.
func another(t *testing.T, rdb redis.UniversalClient) redis.UniversalClient {
	t.Helper()
	var other redis.UniversalClient
	switch rdb := rdb.(type) {
	case *redis.Client: // that of Sentinel, too: its options hold its way to the primary
		other = redis.NewClient(rdb.Options())
	case *redis.ClusterClient:
		other = redis.NewClusterClient(rdb.Options())
	default:
		t.Fatalf("a client of type %T", rdb)
	}
	t.Cleanup(func() { _ = other.Close() })
	return other
}

// within returns t's context, bounded by what even a busy machine should need.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// reliable is what a Locker counts on of a TTL.
func reliable(ttl time.Duration) time.Duration { return ttl - ttl/100 - 2*time.Millisecond }

// slack is what a busy machine may add to a deadline.
const slack = 500 * time.Millisecond
