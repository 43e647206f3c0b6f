package responsecache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16) ^ byte(i*7)
	}
	return b
}

// A body that is written in one piece, and is longer than what is held for those who
// read along, is stored whole.
func TestALongBodyInOneWrite(t *testing.T) {
	body := pattern(20 << 20)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, MaxBody: 32 << 20}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	})
	for range 2 {
		r := s.get(t, "/page")
		assert.True(t, bytes.Equal(body, []byte(r.body)), "%d bytes, %s", len(r.body), r.cacheStatus())
	}
}

// noBodies is a store that keeps entries only.
type noBodies struct{ cache.Store }

// What is in memory only is never stored without its beginning.
func TestALongBodyInAStoreWithoutBodies(t *testing.T) {
	body := pattern(12 << 20)
	st := memoryStores(t)
	st.cache = noBodies{st.cache}
	s := serve(t, st, responsecache.Policy{TTL: time.Minute, MaxBody: 32 << 20}, func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(body); i += 64 << 10 {
			_, _ = w.Write(body[i : i+64<<10])
		}
	})
	for range 2 {
		r := s.get(t, "/page")
		assert.True(t, bytes.Equal(body, []byte(r.body)), "%d bytes, %s", len(r.body), r.cacheStatus())
	}
}

// A body turns out too long to be stored, and the client that began it goes away:
// those who read along get all of it, and never a part that looks like all.
func TestTheFirstClientLeavesALongBodyToItsFollowers(t *testing.T) {
	step := make(chan string)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, MaxBody: 10}, func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case p, ok := <-step:
				if !ok {
					return
				}
				fmt.Fprint(w, p)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/page", nil)
	req.Host = "example.com"
	go func() { step <- "half " }()
	first, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	_, _ = io.ReadFull(first.Body, make([]byte, 5))
	follower := s.open(t, "/page")
	assert.Equal(t, "half ", follower.read(t, 5))
	step <- "more than ten bytes "
	follower.read(t, 20)
	cancel()
	first.Body.Close()
	go func() {
		time.Sleep(300 * time.Millisecond)
		select {
		case step <- "end":
			close(step)
		case <-time.After(time.Second):
		}
	}()
	rest, err := io.ReadAll(follower.body)
	if err == nil {
		assert.Equal(t, "end", string(rest))
	}
}

// Who reads along is told that the rest went elsewhere.
func TestAHijackHalfWayIsNoEnd(t *testing.T) {
	proceed := make(chan struct{})
	var n atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 1 {
			fmt.Fprint(w, "half whole")
			return
		}
		fmt.Fprint(w, "half ")
		_ = http.NewResponseController(w).Flush()
		<-proceed
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			fmt.Fprint(conn, "5\r\nwhole\r\n0\r\n\r\n")
			conn.Close()
		}
	})
	first := s.open(t, "/page")
	first.read(t, 5)
	second := s.open(t, "/page")
	second.read(t, 5)
	close(proceed)
	rest, err := io.ReadAll(second.body)
	assert.True(t, err != nil || string(rest) == "whole", "%q %v", rest, err)
}

// A refresh in the background whose response is not to be stored has no client who
// could end it.
func TestARefreshForNobodyIsEnded(t *testing.T) {
	var n atomic.Int32
	ended := make(chan struct{})
	stop := make(chan struct{})
	defer close(stop)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			fmt.Fprint(w, "page")
			return
		}
		defer close(ended)
		w.Header().Set("Cache-Control", "no-store")
		for {
			if _, err := fmt.Fprint(w, "tick"); err != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	require.Equal(t, "page", s.get(t, "/page").body)
	require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
	require.Equal(t, "page", s.get(t, "/page").body)
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Error("it goes on for nobody")
	}
}

// Also on a route that would store it.
func TestAnEventStreamEndsWithItsClient(t *testing.T) {
	ended, stop := make(chan struct{}), make(chan struct{})
	defer close(stop)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if _, err := fmt.Fprint(w, "data: x\n\n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/page", nil)
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	_, _ = io.ReadFull(resp.Body, make([]byte, 9))
	cancel()
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Error("it goes on for nobody")
	}
}
