package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const masterName = "herdless"

// Sentinels is a primary with two replicas under three sentinels, of which two
// make a quorum. The sentinels take a server for down after 1 s, and fail over
// from a dead primary some 2 s later. Its methods are safe for concurrent use.
type Sentinels struct {
	data      []*Server
	sentinels []*Server
	failover  sync.Mutex // one at a time
}

var sharedSentinels = sync.OnceValues(startSentinels)

// SharedSentinels returns the deployment that all tests of the binary share;
// the first call starts it. If it could not be started, every caller fails.
func SharedSentinels(tb testing.TB) *Sentinels {
	tb.Helper()
	s, err := sharedSentinels()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// NewSentinels starts a deployment for this test alone, which may break it,
// and ends it with the test.
func NewSentinels(tb testing.TB) *Sentinels {
	tb.Helper()
	s, err := startSentinels()
	if err != nil {
		tb.Fatal(err)
	}
	// The sentinels end first, so that they see nothing to repair.
	endWith(tb, append(s.sentinels[:len(s.sentinels):len(s.sentinels)], s.data...)...)
	return s
}

// MasterName returns the name under which the sentinels know the primary.
func (s *Sentinels) MasterName() string { return masterName }

// Addrs returns the addresses of the sentinels.
func (s *Sentinels) Addrs() []string { return addrs(s.sentinels) }

func addrs(list []*Server) []string {
	var out []string
	for _, s := range list {
		out = append(out, s.Addr())
	}
	return out
}

// URL returns "redis+sentinel://127.0.0.1:p1,127.0.0.1:p2,127.0.0.1:p3/herdless/0".
func (s *Sentinels) URL() string {
	return "redis+sentinel://" + strings.Join(s.Addrs(), ",") + "/" + masterName + "/0"
}

// Client returns a new client that follows the primary, with go-redis's
// defaults, which is closed with the test.
func (s *Sentinels) Client(tb testing.TB) *redis.Client {
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: masterName, SentinelAddrs: s.Addrs()})
	closeWith(tb, rdb)
	return rdb
}

// Primary returns the present primary, as the first sentinel that answers
// says. Some seconds pass from the death of a primary to the change.
func (s *Sentinels) Primary(tb testing.TB) *Server {
	tb.Helper()
	var primary *Server
	err := until(context.Background(), startLimit, "ask for the primary", func(ctx context.Context) (err error) {
		primary, err = s.primary(ctx)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return primary
}

func (s *Sentinels) primary(ctx context.Context) (*Server, error) {
	var errs []error
	for _, sentinel := range s.sentinels {
		addr, err := sentinel.do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).StringSlice()
		if err != nil {
			errs = append(errs, fmt.Errorf("sentinel %s: %w", sentinel.Addr(), err))
			continue
		}
		for _, server := range s.data {
			if net.JoinHostPort(addr[0], addr[1]) == server.Addr() {
				return server, nil
			}
		}
		errs = append(errs, fmt.Errorf("sentinel %s names a strange primary: %v", sentinel.Addr(), addr))
	}
	return nil, errors.Join(errs...)
}

// Replicas returns the servers besides the present primary, also those that
// the test has killed.
func (s *Sentinels) Replicas(tb testing.TB) []*Server {
	tb.Helper()
	primary := s.Primary(tb)
	var out []*Server
	for _, server := range s.data {
		if server != primary {
			out = append(out, server)
		}
	}
	return out
}

// FailOver has the sentinels make another server the primary. It returns when
// that accepts writes, all sentinels agree on it, and the other servers, the
// old primary among them, are its replicas; those that the test has killed or
// stopped excepted. Every client notices, so it is for NewSentinels.
func (s *Sentinels) FailOver(tb testing.TB) {
	tb.Helper()
	s.failover.Lock()
	defer s.failover.Unlock()
	old := s.Primary(tb)
	var asked time.Time
	err := until(context.Background(), 2*stateLimit, "fail over from "+old.Addr(), func(ctx context.Context) error {
		primary, err := s.primary(ctx)
		if err != nil {
			return err
		}
		if primary != old {
			return s.settled(ctx, primary)
		}
		// The sentinels refuse while they see no good replica, and give up
		// when a step takes too long.
		if time.Since(asked) < 10*time.Second {
			return fmt.Errorf("%s is still the primary", old.Addr())
		}
		err = s.sentinels[0].do(ctx, "SENTINEL", "FAILOVER", masterName).Err()
		if err != nil {
			return fmt.Errorf("SENTINEL FAILOVER on %s: %w", s.sentinels[0].Addr(), err)
		}
		asked = time.Now()
		return errors.New("asked for a failover")
	})
	if err != nil {
		tb.Fatal(withLogs(err, append(s.sentinels[:1:1], s.data...)...))
	}
}
