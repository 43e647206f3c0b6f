package idempotency_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/redisidempotency"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheStoreForgetsWhileTheHandlerRuns: whoever has run a request does not run it
// again because the store has lost that it was begun.
func TestTheStoreForgetsWhileTheHandlerRuns(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	s := newShop(t, redisidempotency.New(rdb, nil), nil, func(s *shop, w http.ResponseWriter, r *http.Request) {
		assert.NoError(t, rdb.FlushAll(context.WithoutCancel(r.Context())).Err())
		receipt(s, w, r)
	})
	assert.Equal(t, "payment 1 of 5 €", s.pay("k", "5 €").body)
	assert.Equal(t, "payment 1 of 5 €", s.pay("k", "5 €").body, "and keeps what came of it")
	assert.EqualValues(t, 1, s.payments.Load())
}

// TestAHandlerThatOutlivesTheTimeToLive: as long as a lease is renewed nobody else runs
// the request.
func TestAHandlerThatOutlivesTheTimeToLive(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		var runs atomic.Int64
		g, err := idempotency.New(store, caller, 500*time.Millisecond, &idempotency.Options{Lease: 500 * time.Millisecond})
		require.NoError(t, err)
		entered := make(chan struct{}, 2)
		h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := runs.Add(1)
			entered <- struct{}{}
			select {
			case <-time.After(1500 * time.Millisecond): // three times as long
			case <-r.Context().Done():
				t.Errorf("the context has ended: %v", context.Cause(r.Context()))
			}
			fmt.Fprint(w, n)
		}))
		send := func() string {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, request("k", "5 €"))
			return w.Body.String()
		}
		first := make(chan string)
		go func() { first <- send() }()
		<-entered
		assert.Equal(t, "1", send(), "it waits for the first")
		assert.Equal(t, "1", <-first)
	})
}

func request(key, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/pay", strings.NewReader(body))
	r.Header.Set("X-Caller", "ada")
	r.Header.Set("Idempotency-Key", key)
	return r
}

// TestNobodyWaitsForAStoreThatHangs: neither who asks, for longer than Timeout, nor a
// handler whose lease is over, whatever the client does about deadlines.
func TestNobodyWaitsForAStoreThatHangs(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()}) // takes no deadline from contexts
	t.Cleanup(func() { rdb.Close() })
	var ended atomic.Int64
	const lease = 600 * time.Millisecond
	s := newShop(t, redisidempotency.New(rdb, nil), &idempotency.Options{Timeout: 100 * time.Millisecond, Lease: lease}, func(s *shop, w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		server.Stop(t)
		select {
		case <-r.Context().Done():
			assert.ErrorIs(t, context.Cause(r.Context()), idempotency.ErrLost)
		case <-time.After(10 * time.Second):
		}
		ended.Store(int64(time.Since(began)))
		receipt(s, w, r)
	})
	assert.Equal(t, "payment 1 of 5 €", s.pay("k", "5 €").body, "it has run, and the client had better know")
	assert.Less(t, time.Duration(ended.Load()), lease+time.Second, "the context of the handler ends with its lease")
	began := time.Now()
	assert.Equal(t, http.StatusServiceUnavailable, s.pay("other", "5 €").StatusCode)
	assert.Less(t, time.Since(began), 2*time.Second, "the client's own timeouts are 3 seconds, four times")
	server.Continue(t)
}

// panicking is a Store that panics in one of its steps.
type panicking struct {
	idempotency.Store
	in string
}

func (p *panicking) at(step string) {
	if step == p.in {
		panic("boom")
	}
}

func (p *panicking) Begin(ctx context.Context, key string, b idempotency.Begin) (idempotency.State, error) {
	p.at("begin")
	return p.Store.Begin(ctx, key, b)
}

func (p *panicking) Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error) {
	p.at("extend")
	return p.Store.Extend(ctx, key, owner, lease)
}

func (p *panicking) Finish(ctx context.Context, key, owner string, response []byte, ttl time.Duration) (bool, error) {
	p.at("finish")
	return p.Store.Finish(ctx, key, owner, response, ttl)
}

// TestAStoreThatPanics: leases are renewed in a goroutine of their own, where a panic
// would end the process.
func TestAStoreThatPanics(t *testing.T) {
	for in, want := range map[string]int{"begin": http.StatusServiceUnavailable, "extend": http.StatusCreated, "finish": http.StatusCreated} {
		t.Run(in, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, err := idempotency.New(&panicking{idempotency.NewMemoryStore(), in}, caller, time.Hour,
					&idempotency.Options{Lease: time.Second, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					select {
					case <-r.Context().Done():
						assert.Equal(t, "extend", in)
					case <-time.After(10 * time.Second):
						assert.NotEqual(t, "extend", in, "the context must end")
					}
					w.WriteHeader(http.StatusCreated)
				}))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request("k", "5 €"))
				assert.Equal(t, want, w.Code)
				time.Sleep(2 * time.Second) // for so long it is tried to store the response
			})
		})
	}
}

// garbled is a Store with a response that somebody else has written.
type garbled struct {
	idempotency.Store
	response string
}

func (g *garbled) Begin(context.Context, string, idempotency.Begin) (idempotency.State, error) {
	return idempotency.State{Phase: idempotency.Finished, Response: []byte(g.response)}, nil
}

// TestAStoredResponseOfSomebodyElse: whatever stands in the store, there is an answer,
// and none that breaks the connection or sets a cookie.
func TestAStoredResponseOfSomebodyElse(t *testing.T) {
	for response, want := range map[string]int{
		"":                                 http.StatusInternalServerError,
		"null":                             http.StatusInternalServerError,
		"{}":                               http.StatusInternalServerError,
		`[1]`:                              http.StatusInternalServerError,
		`{"status":0}`:                     http.StatusInternalServerError,
		`{"status":100}`:                   http.StatusInternalServerError,
		`{"status":101}`:                   http.StatusInternalServerError,
		`{"status":1000}`:                  http.StatusInternalServerError,
		`{"status":-1}`:                    http.StatusInternalServerError,
		`{"status":200,"body":"!"}`:        http.StatusInternalServerError,
		"\x00\xff":                         http.StatusInternalServerError,
		`{"status":299}`:                   299,
		`{"status":200,"body":"aGVsbG8="}`: http.StatusOK,
		`{"status":200,"fields":{"Set-Cookie":["YQ=="],"Transfer-Encoding":["Y2h1bmtlZA=="],"X\r\nY":["YQ=="],"":["YQ=="],"X-Ok":["YQ0KU2V0LUNvb2tpZTogYQ=="]}}`: http.StatusOK,
	} {
		s := newShop(t, &garbled{idempotency.NewMemoryStore(), response}, nil, receipt)
		got := s.pay("k", "")
		assert.Equal(t, want, got.StatusCode, "%q", response)
		assert.Empty(t, got.Header.Get("Set-Cookie"), "%q", response)
		assert.Zero(t, s.payments.Load())
	}
}

// TestAReplayIsTheSame: to the byte, also where a field is not UTF-8, or where outer
// middleware has set a part of it.
func TestAReplayIsTheSame(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		g, err := idempotency.New(store, caller, time.Hour, nil)
		require.NoError(t, err)
		inner := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Disposition", "attachment; filename=\"caf\xe9\"")
			h["Vary"] = []string{"Origin", "Cookie"}
			h.Add("Link", "</a>")
			h.Add("Link", "</b>")
			h.Set("X-Empty", "")
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write([]byte{0, 0xff, '<'})
		}))
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Vary"] = []string{"Origin", "Accept"}
			inner.ServeHTTP(w, r)
		})
		first, again := httptest.NewRecorder(), httptest.NewRecorder()
		h.ServeHTTP(first, request("k", ""))
		h.ServeHTTP(again, request("k", ""))
		require.Equal(t, "true", again.Header().Get("Idempotent-Replayed"))
		again.Header().Del("Idempotent-Replayed")
		assert.Equal(t, first.Header(), again.Header())
		assert.Equal(t, first.Code, again.Code)
		assert.Equal(t, first.Body, again.Body)
	})
}

// TestAFlushHasNoEffect: a handler that flushes is not sent away for it, as it would be
// by a writer that has no Flush; and what is too long to be kept is flushed.
func TestAFlushHasNoEffect(t *testing.T) {
	got := make(chan string, 1)
	s := newShop(t, idempotency.NewMemoryStore(), &idempotency.Options{MaxResponse: 10}, func(_ *shop, w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		assert.NoError(t, http.NewResponseController(w).Flush())
		w.WriteHeader(http.StatusTeapot) // too late
		fmt.Fprint(w, "12345")
		if r.URL.Path == "/long" {
			fmt.Fprint(w, "6789012345")
			assert.NoError(t, http.NewResponseController(w).Flush())
			assert.Equal(t, "123456789012345", <-got, "it is out")
		}
	})
	short := s.pay("k", "")
	assert.Equal(t, http.StatusOK, short.StatusCode)
	assert.Equal(t, "12345", short.body)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/long", nil)
	require.NoError(t, err)
	req.Header = http.Header{"X-Caller": {"ada"}, "Idempotency-Key": {"l"}}
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	buf := make([]byte, 15)
	_, err = io.ReadFull(resp.Body, buf)
	assert.NoError(t, err)
	got <- string(buf)
}

// TestAStatusThatDoesNotExist: as in net/http that is a panic of the handler, and not one
// of each retry.
func TestAStatusThatDoesNotExist(t *testing.T) {
	for _, status := range []int{0, 99, 1000} {
		g, err := idempotency.New(idempotency.NewMemoryStore(), caller, time.Hour, nil)
		require.NoError(t, err)
		h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if idempotency.Attempt(r.Context()) == 1 {
				w.WriteHeader(status)
			}
		}))
		assert.Panics(t, func() { h.ServeHTTP(httptest.NewRecorder(), request("k", "")) }, "%d", status)
		w := httptest.NewRecorder()
		assert.NotPanics(t, func() { h.ServeHTTP(w, request("k", "")) }, "%d", status)
		assert.Equal(t, http.StatusOK, w.Code)
	}
}

// TestAFormThatWasRead: middleware outside that has read the form leaves no body, but
// another form is another request all the same.
func TestAFormThatWasRead(t *testing.T) {
	g, err := idempotency.New(idempotency.NewMemoryStore(), caller, time.Hour, nil)
	require.NoError(t, err)
	inner := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.PostFormValue("amount")) }))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.PostFormValue("csrf")
		inner.ServeHTTP(w, r)
	})
	for _, tt := range []struct {
		amount string
		want   int
	}{{"5", http.StatusOK}, {"5", http.StatusOK}, {"6", http.StatusUnprocessableEntity}} {
		r := request("k", url.Values{"amount": {tt.amount}}.Encode())
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, tt.want, w.Code)
	}
}

// TestARequestThatEndsInItsMiddle: the body breaks off, and nothing has run.
func TestARequestThatEndsInItsMiddle(t *testing.T) {
	s := newShop(t, idempotency.NewMemoryStore(), nil, receipt)
	for _, body := range []io.Reader{io.MultiReader(strings.NewReader("5"), &broken{}), &broken{}} {
		r := request("k", "")
		r.Body = io.NopCloser(body)
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		assert.Equal(t, http.StatusBadRequest, w.Code)
	}
	assert.Zero(t, s.payments.Load())
	assert.Equal(t, "payment 1 of 5 €", s.pay("k", "5 €").body, "the key is still free")
	assert.Equal(t, http.StatusBadRequest, s.pay(strings.Repeat("k", 10_000), "5 €").StatusCode)
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestAHijackIsRefused: a connection that was taken over has no response to store.
func TestAHijackIsRefused(t *testing.T) {
	s := newShop(t, idempotency.NewMemoryStore(), nil, func(_ *shop, w http.ResponseWriter, _ *http.Request) {
		_, _, err := http.NewResponseController(w).Hijack()
		assert.ErrorIs(t, err, http.ErrNotSupported)
		http.Error(w, "no websockets here", http.StatusNotImplemented)
	})
	assert.Equal(t, http.StatusNotImplemented, s.pay("k", "").StatusCode)
}
