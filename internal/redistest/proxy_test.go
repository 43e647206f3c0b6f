package redistest_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

// throughProxy returns a proxy in front of the shared server and a client with
// one connection through it that has been used once, so that go-redis's
// greetings are over.
func throughProxy(t *testing.T) (*redistest.Proxy, *redis.Client) {
	t.Helper()
	p := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{
		Addr: p.Addr(), PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
		ContextTimeoutEnabled: true, ReadTimeout: -1, WriteTimeout: -1,
	})
	t.Cleanup(func() { _ = rdb.Close() })
	require.NoError(t, rdb.Ping(soon(t)).Err())
	return p, rdb
}

// dial connects to the proxy in front of an echo server.
func dial(t *testing.T, p *redistest.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// echoServer returns the address of a server that sends back what it gets,
// and ends with the test.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// echo sends s and expects it back.
func echo(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	_, err := io.WriteString(conn, s)
	require.NoError(t, err)
	expect(t, conn, s)
}

func expect(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	buf := make([]byte, len(s))
	_, err := io.ReadFull(conn, buf)
	require.NoError(t, err)
	require.Equal(t, s, string(buf))
}

// silent expects nothing to come for a while.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n, "something came through")
	require.True(t, isTimeout(err), "got %v, want nothing at all", err)
}

func TestProxyCountsRoundTrips(t *testing.T) {
	t.Parallel()
	p, rdb := throughProxy(t)
	ctx := soon(t)
	before := p.Stats()
	require.Positive(t, before.RoundTrips)
	for range 3 {
		require.NoError(t, rdb.Ping(ctx).Err())
	}
	require.Equal(t, before.RoundTrips+3, p.Stats().RoundTrips, "three commands")

	pings := func(pipe redis.Pipeliner) error {
		for range 10 {
			pipe.Ping(ctx)
		}
		return nil
	}
	// go-redis keeps other connections for pipelines, with greetings of their own.
	_, err := rdb.Pipelined(ctx, pings)
	require.NoError(t, err)
	p.Reset()
	require.Equal(t, redistest.Stats{}, p.Stats())
	_, err = rdb.Pipelined(ctx, pings)
	require.NoError(t, err)
	require.Equal(t, redistest.Stats{
		BytesUp:    10 * int64(len("*1\r\n$4\r\nping\r\n")),
		BytesDown:  10 * int64(len("+PONG\r\n")),
		RoundTrips: 1,
	}, p.Stats(), "a pipeline of ten")
}

func TestProxyCountsPerConnection(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, echoServer(t))
	require.Empty(t, p.Conns())
	first := dial(t, p)
	echo(t, first, "a")
	second := dial(t, p)
	echo(t, second, "bb")
	echo(t, second, "bb")
	echo(t, first, "a")
	echo(t, first, "a")
	require.Equal(t, []redistest.Stats{{3, 3, 3}, {4, 4, 2}}, p.Conns())
	require.Equal(t, redistest.Stats{BytesUp: 7, BytesDown: 7, RoundTrips: 5}, p.Stats())

	// The counts of a connection outlast it, until Reset.
	require.NoError(t, first.Close())
	require.Equal(t, redistest.Stats{BytesUp: 7, BytesDown: 7, RoundTrips: 5}, p.Stats())
	eventually(t, "only the open connection is left", func() bool {
		p.Reset()
		return len(p.Conns()) == 1
	})
	echo(t, second, "bb")
	require.Equal(t, []redistest.Stats{{2, 2, 1}}, p.Conns())
}

func TestProxyPassesManyBytes(t *testing.T) {
	t.Parallel()
	p, rdb := throughProxy(t)
	p.SetLatency(time.Millisecond)
	value := make([]byte, 8<<20)
	for i := range value {
		value[i] = byte(i * i >> 8)
	}
	key := redistest.Prefix(t) + "k"
	require.NoError(t, rdb.Set(soon(t), key, value, time.Minute).Err())
	got, err := rdb.Get(soon(t), key).Bytes()
	require.NoError(t, err)
	require.True(t, string(value) == string(got), "the bytes came back changed")
}

func TestProxyPassesOnTheEnd(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, echoServer(t))
	conn := dial(t, p)
	echo(t, conn, "a")
	_, err := io.WriteString(conn, "last words")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	expect(t, conn, "last words")
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestProxyLatency(t *testing.T) {
	t.Parallel()
	p, rdb := throughProxy(t)
	const latency = 150 * time.Millisecond
	p.SetLatency(latency)
	start := time.Now()
	require.NoError(t, rdb.Ping(soon(t)).Err())
	require.GreaterOrEqual(t, time.Since(start), latency)

	// What arrives together leaves together.
	start = time.Now()
	_, err := rdb.Pipelined(soon(t), func(pipe redis.Pipeliner) error {
		for range 100 {
			pipe.Ping(context.Background())
		}
		return nil
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(start), latency)
	require.Less(t, time.Since(start), 50*latency)

	p.SetLatency(0)
	eventually(t, "replies are prompt again", func() bool {
		start := time.Now()
		return rdb.Ping(soon(t)).Err() == nil && time.Since(start) < latency
	})
}

func TestProxyCut(t *testing.T) {
	t.Parallel()
	p, rdb := throughProxy(t)
	conn := dial(t, p)
	_, err := io.WriteString(conn, "PING\r\n")
	require.NoError(t, err)
	expect(t, conn, "+PONG\r\n")
	p.Cut()
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "a cut connection is open")
	require.False(t, isTimeout(err))
	eventually(t, "a new connection works", func() bool { return rdb.Ping(soon(t)).Err() == nil })
}

// A client that waits for a reply hears of the cut.
func TestProxyCutInFlight(t *testing.T) {
	t.Parallel()
	p, rdb := throughProxy(t)
	failed := make(chan error, 1)
	ctx := soon(t)
	before := p.Stats().RoundTrips
	go func() { failed <- rdb.BLPop(ctx, 0, redistest.Prefix(t)+"list").Err() }()
	eventually(t, "the command has gone up", func() bool { return p.Stats().RoundTrips > before })
	p.Cut()
	select {
	case err := <-failed:
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	case <-ctx.Done():
		t.Fatal("the client waits on a cut connection")
	}
}

func TestProxyRefuse(t *testing.T) {
	t.Parallel()
	p, rdb := throughProxy(t)
	conns := len(p.Conns())
	p.Refuse(true)
	for range 3 {
		require.Error(t, rdb.Ping(soon(t)).Err(), "a refused client got through")
	}
	require.Len(t, p.Conns(), conns, "refused connections were counted")
	require.GreaterOrEqual(t, p.Refused(), 3)
	p.Reset()
	require.Zero(t, p.Refused())
	p.Refuse(false)
	eventually(t, "connections are accepted", func() bool { return rdb.Ping(soon(t)).Err() == nil })
}

func TestProxyBlackhole(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, echoServer(t))
	conn := dial(t, p)
	echo(t, conn, "before")
	stats := p.Stats()
	p.Blackhole(true)
	p.Blackhole(true) // no harm
	_, err := io.WriteString(conn, "held back")
	require.NoError(t, err, "the connection was closed")
	later := dial(t, p)
	_, err = io.WriteString(later, "later")
	require.NoError(t, err)
	silent(t, conn)
	silent(t, later)
	require.Equal(t, stats, p.Stats(), "what was held back was counted")

	p.Blackhole(false)
	expect(t, conn, "held back")
	expect(t, later, "later")
	echo(t, conn, "after")
}

// Also what comes down is held back, and also when it was on its way.
func TestProxyBlackholeHoldsReplies(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, echoServer(t))
	conn := dial(t, p)
	echo(t, conn, "x")
	p.SetLatency(20 * time.Millisecond)
	before := p.Stats()
	_, err := io.WriteString(conn, "reply")
	require.NoError(t, err)
	eventually(t, "it has gone up", func() bool { return p.Stats().BytesUp == before.BytesUp+5 })
	p.Blackhole(true)
	if p.Stats().BytesDown != before.BytesDown {
		expect(t, conn, "reply") // it was faster
	} else {
		silent(t, conn)
		p.Blackhole(false)
		expect(t, conn, "reply")
	}
}

// A side that closes while the line is a black hole is not heard of before it
// is none any more.
func TestProxyBlackholeHidesTheEnd(t *testing.T) {
	t.Parallel()
	s := redistest.NewStandalone(t)
	p := redistest.NewProxy(t, s.Addr())
	conn := dial(t, p)
	_, err := io.WriteString(conn, "PING\r\n")
	require.NoError(t, err)
	expect(t, conn, "+PONG\r\n")
	p.Blackhole(true)
	s.Kill(t)
	silent(t, conn)
	p.Blackhole(false)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// Nothing that has been delivered after Blackhole had returned: many times, to
// catch a delivery between its look at the gate and its write.
func TestProxyBlackholeIsTight(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, echoServer(t))
	var busy sync.WaitGroup
	for range 32 {
		conn := dial(t, p)
		busy.Go(func() {
			for buf := []byte("."); ; {
				if _, err := conn.Write(buf); err != nil {
					return
				}
				if _, err := conn.Read(buf); err != nil {
					return
				}
			}
		})
	}
	for range 300 {
		p.Blackhole(true)
		held := p.Stats()
		for range 30 {
			runtime.Gosched()
			require.Equal(t, held, p.Stats(), "delivered into a black hole")
		}
		p.Blackhole(false)
		eventually(t, "bytes flow again", func() bool { return p.Stats().BytesDown > held.BytesDown })
	}
	p.Cut()
	busy.Wait()
}

// Cut, Refuse and the end of the test work on a black hole.
func TestProxyBlackholeCanBeCut(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, echoServer(t))
	conn := dial(t, p)
	echo(t, conn, "x")
	p.Blackhole(true)
	_, err := io.WriteString(conn, "held back")
	require.NoError(t, err)
	p.Cut()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.False(t, isTimeout(err))
	_, err = io.WriteString(dial(t, p), "never delivered")
	require.NoError(t, err)
}

func TestProxyWithoutAServer(t *testing.T) {
	t.Parallel()
	s := redistest.NewStandalone(t)
	s.Kill(t)
	conn := dial(t, redistest.NewProxy(t, s.Addr()))
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.False(t, isTimeout(err), "the client is left waiting")
}
