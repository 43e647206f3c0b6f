package push_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// failConn breaks at the first SUBSCRIBE to "second".
type failConn struct {
	net.Conn
	fail *atomic.Bool
}

func (c failConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("subscribe")) && bytes.Contains(p, []byte("second")) && c.fail.CompareAndSwap(true, false) {
		_ = c.Close()
		return 0, errors.New("write: broken pipe")
	}
	return c.Conn.Write(p)
}

func TestASubscriptionThatFailsToBeSentIsSentAgain(t *testing.T) {
	var fail atomic.Bool
	server := redistest.Standalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		if err != nil {
			return nil, err
		}
		return failConn{c, &fail}, nil
	}})
	defer rdb.Close()
	h := push.New(rdb)
	p := redistest.Prefix(t)
	_, stop, err := h.Watch(t.Context(), p+"first", "")
	require.NoError(t, err)
	defer stop()
	fail.Store(true)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, stop2, err := h.Watch(ctx, p+"second", "")
		cancel()
		if err != nil {
			t.Errorf("Watch: %v", err)
			continue
		}
		stop2()
		break
	}
}
