package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/redisidempotency"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

func onBothStores(t *testing.T, test func(t *testing.T, store idempotency.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, idempotency.NewMemoryStore()) })
	t.Run("redis", func(t *testing.T) {
		test(t, redisidempotency.New(redistest.Standalone(t).Client(t), &redisidempotency.Options{Prefix: redistest.Prefix(t)}))
	})
}

func caller(r *http.Request) (string, error) {
	c := r.Header.Get("X-Caller")
	if c == "fault" {
		return "", errors.New("the users' database is away")
	}
	return c, nil
}

// shop counts its payments.
type shop struct {
	*httptest.Server
	t        *testing.T
	payments atomic.Int64
	attempts sync.Map
}

func newShop(t *testing.T, store idempotency.Store, o *idempotency.Options, pay func(s *shop, w http.ResponseWriter, r *http.Request)) *shop {
	t.Helper()
	if o == nil {
		o = &idempotency.Options{}
	}
	opts := *o
	opts.Logger = slog.New(slog.DiscardHandler)
	g, err := idempotency.New(store, caller, time.Hour, &opts)
	require.NoError(t, err)
	s := &shop{t: t}
	s.Server = httptest.NewServer(g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.payments.Add(1)
		s.attempts.Store(n, idempotency.Attempt(r.Context()))
		pay(s, w, r)
	})))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(s.Close)
	return s
}

func receipt(s *shop, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	assert.NoError(s.t, err)
	w.Header().Set("X-Receipt", fmt.Sprint(s.payments.Load()))
	w.Header().Add("Set-Cookie", "secret=1")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "payment %d of %s", s.payments.Load(), body)
}

type answer struct {
	*http.Response
	body string
}

func (s *shop) send(method, path, caller, key, body string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	require.NoError(s.t, err)
	req.Header.Set("X-Caller", caller)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := s.Client().Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return answer{resp, string(b)}
}

func (s *shop) pay(key, body string) answer { return s.send(http.MethodPost, "/pay", "ada", key, body) }

func TestARetryGetsTheResponse(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		s := newShop(t, store, nil, receipt)
		first := s.pay(`"key-1"`, "5 €")
		assert.Equal(t, http.StatusCreated, first.StatusCode)
		assert.Equal(t, "payment 1 of 5 €", first.body)
		assert.Equal(t, "secret=1", first.Header.Get("Set-Cookie"))
		assert.Empty(t, first.Header.Get("Idempotent-Replayed"))
		for _, key := range []string{`"key-1"`, "key-1"} {
			again := s.pay(key, "5 €")
			assert.Equal(t, http.StatusCreated, again.StatusCode)
			assert.Equal(t, first.body, again.body)
			assert.Equal(t, "1", again.Header.Get("X-Receipt"))
			assert.Equal(t, "true", again.Header.Get("Idempotent-Replayed"))
			assert.Empty(t, again.Header.Get("Set-Cookie"), "cookies are secrets, and not stored")
			assert.Equal(t, first.Header.Get("Content-Type"), again.Header.Get("Content-Type"))
		}
		assert.EqualValues(t, 1, s.payments.Load())
		assert.Equal(t, "payment 2 of 5 €", s.pay("key-2", "5 €").body)
		assert.Equal(t, "payment 3 of 5 €", s.pay("", "5 €").body, "without a key it is a request like any other")
		assert.Equal(t, "payment 4 of 5 €", s.send(http.MethodPut, "/pay", "ada", "key-1", "5 €").body, "PUT is idempotent by itself")
	})
}

func TestAKeyBelongsToOneRequestOfOneCaller(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		s := newShop(t, store, nil, receipt)
		s.pay("k", "5 €")
		for name, other := range map[string]answer{
			"body":   s.pay("k", "6 €"),
			"path":   s.send(http.MethodPost, "/refund", "ada", "k", "5 €"),
			"query":  s.send(http.MethodPost, "/pay?twice=1", "ada", "k", "5 €"),
			"method": s.send(http.MethodPatch, "/pay", "ada", "k", "5 €"),
		} {
			assert.Equal(t, http.StatusUnprocessableEntity, other.StatusCode, name)
			assert.Equal(t, "application/problem+json", other.Header.Get("Content-Type"), name)
		}
		assert.EqualValues(t, 1, s.payments.Load())
		assert.Equal(t, "payment 2 of 6 €", s.send(http.MethodPost, "/pay", "bob", "k", "6 €").body, "the key of another caller is another one")
		assert.Equal(t, http.StatusForbidden, s.send(http.MethodPost, "/pay", "", "k", "5 €").StatusCode, "whose key is it?")
		away := s.send(http.MethodPost, "/pay", "fault", "k", "5 €")
		assert.Equal(t, http.StatusServiceUnavailable, away.StatusCode, "a fault is not the caller's, who may try again")
		assert.Equal(t, "1", away.Header.Get("Retry-After"))
		assert.NotContains(t, away.body, "database")
		assert.EqualValues(t, 2, s.payments.Load())
	})
}

// A handler may be mounted twice, and see the same path: what the client has asked for is
// what counts.
func TestRoutesUnderStripPrefixAreNotMixedUp(t *testing.T) {
	g, err := idempotency.New(idempotency.NewMemoryStore(), caller, time.Hour, &idempotency.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	pay := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RequestURI) }))
	mux := http.NewServeMux()
	for _, prefix := range []string{"/v1", "/v2"} {
		mux.Handle(prefix+"/", http.StripPrefix(prefix, pay))
	}
	ask := func(target string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, target, strings.NewReader("5 €"))
		r.Header.Set("X-Caller", "ada")
		r.Header.Set("Idempotency-Key", "k")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	for range 2 {
		assert.Equal(t, "/v1/payments", ask("/v1/payments").Body.String())
		assert.Equal(t, http.StatusUnprocessableEntity, ask("/v2/payments").Code)
	}
}

// Without the body nobody knows whether it is the same request.
func TestABodyThatIsGoneIsRefused(t *testing.T) {
	log := &strings.Builder{}
	g, err := idempotency.New(idempotency.NewMemoryStore(), caller, time.Hour, &idempotency.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it ran") }))
	r := httptest.NewRequest(http.MethodPost, "/pay", strings.NewReader(`{"amount":5}`))
	r.Header.Set("X-Caller", "ada")
	r.Header.Set("Idempotency-Key", "k")
	_, err = io.ReadAll(r.Body)
	require.NoError(t, err)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	assert.Contains(t, log.String(), "has read the body")
}

func TestBadRequests(t *testing.T) {
	s := newShop(t, idempotency.NewMemoryStore(), &idempotency.Options{Required: true, MaxBody: 10}, receipt)
	for name, tt := range map[string]struct {
		key, body string
		status    int
	}{
		"no key":       {"", "", http.StatusBadRequest},
		"empty string": {`""`, "", http.StatusBadRequest},
		"open string":  {`"k`, "", http.StatusBadRequest},
		"long":         {strings.Repeat("k", 256), "", http.StatusBadRequest},
		"not ASCII":    {"ключ", "", http.StatusBadRequest},
		"long body":    {"k", "01234567890", http.StatusRequestEntityTooLarge},
	} {
		assert.Equal(t, tt.status, s.pay(tt.key, tt.body).StatusCode, name)
	}
	assert.Zero(t, s.payments.Load())
}

func TestDuplicatesAtOnce(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		s := newShop(t, store, nil, func(s *shop, w http.ResponseWriter, r *http.Request) {
			time.Sleep(200 * time.Millisecond)
			receipt(s, w, r)
		})
		var running sync.WaitGroup
		for range 50 {
			running.Go(func() { assert.Equal(t, "payment 1 of 5 €", s.pay("k", "5 €").body) })
		}
		running.Wait()
		assert.EqualValues(t, 1, s.payments.Load())
	})
}

func TestADuplicateThatDoesNotWait(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		entered, release := make(chan struct{}), make(chan struct{})
		s := newShop(t, store, &idempotency.Options{Wait: -1}, func(s *shop, w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-release
			receipt(s, w, r)
		})
		first := make(chan answer)
		go func() { first <- s.pay("k", "") }()
		<-entered
		duplicate := s.pay("k", "")
		assert.Equal(t, http.StatusConflict, duplicate.StatusCode)
		assert.Equal(t, "1", duplicate.Header.Get("Retry-After"))
		close(release)
		assert.Equal(t, http.StatusCreated, (<-first).StatusCode)
	})
}

func TestTheHandlerOutlivesItsClientAndItsFirstLease(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		entered := make(chan struct{}, 2)
		s := newShop(t, store, &idempotency.Options{Lease: 200 * time.Millisecond}, func(s *shop, w http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			select {
			case <-time.After(time.Second): // five leases
			case <-r.Context().Done():
				t.Errorf("the context has ended: %v", context.Cause(r.Context()))
			}
			receipt(s, w, r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/pay", nil)
			req.Header.Set("X-Caller", "ada")
			req.Header.Set("Idempotency-Key", "k")
			if resp, err := s.Client().Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		<-entered
		cancel()
		assert.Equal(t, "payment 1 of ", s.pay("k", "").body)
		assert.EqualValues(t, 1, s.payments.Load())
	})
}

func TestWhatIsNotFinalRunsAgain(t *testing.T) {
	onBothStores(t, func(t *testing.T, store idempotency.Store) {
		for _, fail := range []func(w http.ResponseWriter){
			func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
			func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
			func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		} {
			s := newShop(t, store, nil, func(s *shop, w http.ResponseWriter, r *http.Request) {
				if s.payments.Load() == 1 {
					fail(w)
					return
				}
				receipt(s, w, r)
			})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/pay", nil)
			require.NoError(t, err)
			req.Header.Set("X-Caller", s.URL)
			req.Header.Set("Idempotency-Key", "k")
			if resp, err := s.Client().Do(req); err == nil {
				resp.Body.Close()
				assert.GreaterOrEqual(t, resp.StatusCode, 400)
			}
			assert.Equal(t, "payment 2 of ", s.send(http.MethodPost, "/pay", s.URL, "k", "").body)
			assert.Equal(t, "payment 2 of ", s.send(http.MethodPost, "/pay", s.URL, "k", "").body)
			second, _ := s.attempts.Load(int64(2))
			assert.Equal(t, 2, second, "the handler must know that it is not the first")
		}
		s := newShop(t, store, nil, func(_ *shop, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) })
		for range 2 {
			assert.Equal(t, http.StatusBadRequest, s.send(http.MethodPost, "/pay", s.URL, "k", "").StatusCode)
		}
		assert.EqualValues(t, 1, s.payments.Load(), "a 400 is final")
	})
}

func TestAResponseThatIsTooLong(t *testing.T) {
	s := newShop(t, idempotency.NewMemoryStore(), &idempotency.Options{MaxResponse: 1000}, func(_ *shop, w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			fmt.Fprint(w, strings.Repeat("x", 100))
		}
	})
	first := s.pay("k", "")
	assert.Equal(t, http.StatusOK, first.StatusCode)
	assert.Len(t, first.body, 10_000)
	again := s.pay("k", "")
	assert.Equal(t, http.StatusConflict, again.StatusCode)
	assert.Contains(t, again.body, "too long")
	assert.EqualValues(t, 1, s.payments.Load())
}

func TestTheStoreIsAway(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { rdb.Close() })
	s := newShop(t, redisidempotency.New(rdb, &redisidempotency.Options{Prefix: redistest.Prefix(t)}), nil, receipt)
	proxy.Refuse(true)
	res := s.pay("k", "")
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))
	assert.Zero(t, s.payments.Load(), "a request that may have run must not run")
	proxy.Refuse(false)
	assert.Equal(t, "payment 1 of ", s.pay("k", "").body)
}

// lossy is a store that has lost the lease when the handler is done.
type lossy struct {
	idempotency.Store
	lost atomic.Bool
}

func (l *lossy) Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error) {
	if l.lost.Load() {
		return false, nil
	}
	return l.Store.Extend(ctx, key, owner, lease)
}

func TestALostLease(t *testing.T) {
	inner := idempotency.NewMemoryStore()
	store := &lossy{Store: inner}
	s := newShop(t, store, &idempotency.Options{Lease: 100 * time.Millisecond}, func(s *shop, w http.ResponseWriter, r *http.Request) {
		if s.payments.Load() > 1 {
			receipt(s, w, r)
			return
		}
		store.lost.Store(true)
		select {
		case <-r.Context().Done():
			assert.ErrorIs(t, context.Cause(r.Context()), idempotency.ErrLost)
		case <-time.After(10 * time.Second):
			t.Error("the context must end")
		}
		store.lost.Store(false)
		time.Sleep(200 * time.Millisecond) // the lease ends
		assert.Equal(t, "payment 2 of ", s.pay("k", "").body, "somebody else takes over")
		fmt.Fprint(w, "payment 1, late")
	})
	assert.Equal(t, "payment 2 of ", s.pay("k", "").body, "the late response is thrown away")
}

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	_, err := idempotency.New(nil, nil, 0, &idempotency.Options{Lease: time.Millisecond, MaxBody: -1, MaxResponse: -1, Timeout: -1})
	for _, part := range []string{"the store is nil", "the scope is nil", "Options.Lease", "the time to live", "MaxBody", "MaxResponse", "Timeout"} {
		assert.ErrorContains(t, err, part)
	}
	scope := func(*http.Request) (string, error) { return "scope", nil }
	g, err := idempotency.New(idempotency.NewMemoryStore(), scope, time.Hour, nil)
	require.NoError(t, err)
	assert.PanicsWithValue(t, "idempotency: Guard.Handler needs a handler to wrap, and got nil", func() { g.Handler(nil) })
	_, err = idempotency.New((*idempotency.MemoryStore)(nil), nil, time.Hour, nil)
	assert.ErrorContains(t, err, "the store is nil")
}
