package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// troubled is a Store to which the connection of one server is bad.
type troubled struct {
	idempotency.Store
	late   time.Duration // after which the answer to Begin comes
	begun  func() error  // in place of that answer, if it is an error
	extend func(ctx context.Context) error
	watch  func(ctx context.Context) error
	finish func(ctx context.Context) error
}

func (s *troubled) Begin(ctx context.Context, key string, b idempotency.Begin) (idempotency.State, error) {
	state, err := s.Store.Begin(ctx, key, b)
	time.Sleep(s.late)
	if s.begun != nil {
		if err := s.begun(); err != nil {
			return idempotency.State{}, err
		}
	}
	return state, err
}

func (s *troubled) Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error) {
	if s.extend != nil {
		if err := s.extend(ctx); err != nil {
			return false, err
		}
	}
	return s.Store.Extend(ctx, key, owner, lease)
}

func (s *troubled) Finish(ctx context.Context, key, owner string, response []byte, ttl time.Duration) (bool, error) {
	if s.finish != nil {
		if err := s.finish(ctx); err != nil {
			return false, err
		}
	}
	return s.Store.Finish(ctx, key, owner, response, ttl)
}

func (s *troubled) Watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	if s.watch != nil {
		if err := s.watch(ctx); err != nil {
			return nil, nil, err
		}
	}
	return s.Store.Watch(ctx, key)
}

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func fails(context.Context) error { return errors.New("the store is away") }

// server is one of several servers on a store.
func server(t *testing.T, store idempotency.Store, o idempotency.Options, handler http.HandlerFunc) func() *httptest.ResponseRecorder {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	g, err := idempotency.New(store, caller, time.Hour, &o)
	require.NoError(t, err)
	h := g.Handler(handler)
	return func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("k", "5 €"))
		return w
	}
}

// TestAnAnswerThatComesLate: a lease begins when it is asked for, not when the answer is
// here. Whoever cannot extend it stops before the next one begins.
func TestAnAnswerThatComesLate(t *testing.T) {
	for _, extend := range []func(context.Context) error{fails, hangs} {
		for _, late := range []time.Duration{700 * time.Millisecond, 1200 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				store := idempotency.NewMemoryStore()
				o := idempotency.Options{Lease: time.Second, Timeout: 5 * time.Second}
				var running atomic.Int64
				first := server(t, &troubled{Store: store, late: late, extend: extend}, o, func(w http.ResponseWriter, r *http.Request) {
					running.Add(1)
					<-r.Context().Done()
					assert.ErrorIs(t, context.Cause(r.Context()), idempotency.ErrLost)
					running.Add(-1)
					w.WriteHeader(http.StatusServiceUnavailable)
				})
				second := server(t, store, o, func(w http.ResponseWriter, _ *http.Request) {
					assert.Zero(t, running.Load(), "the first still runs")
					time.Sleep(300 * time.Millisecond)
					assert.Zero(t, running.Load(), "the first still runs")
					fmt.Fprint(w, "second")
				})
				done := make(chan struct{})
				go func() {
					defer close(done)
					first()
				}()
				synctest.Wait()
				assert.Equal(t, "second", second().Body.String())
				<-done
			})
		}
	}
}

// TestAnAnswerThatIsLost: who begins a request, and does not hear of it, does not run it. The
// retry need not wait for a lease that nobody has, and what another server runs stays that one's.
func TestAnAnswerThatIsLost(t *testing.T) {
	for name, running := range map[string]bool{"nobody runs it": false, "another server runs it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := idempotency.NewMemoryStore()
				var runs atomic.Int64
				pay := func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(2 * time.Second)
					fmt.Fprint(w, "payment ", runs.Add(1))
				}
				send := server(t, store, idempotency.Options{}, pay)
				lost := server(t, &troubled{Store: store, begun: func() error { return errors.New("i/o timeout") }}, idempotency.Options{}, pay)
				var wg sync.WaitGroup
				defer wg.Wait()
				if running {
					wg.Go(func() { assert.Equal(t, "payment 1", send().Body.String()) })
					synctest.Wait()
				}
				assert.Equal(t, http.StatusServiceUnavailable, lost().Code)
				synctest.Wait()
				began := time.Now()
				assert.Equal(t, "payment 1", send().Body.String())
				assert.LessOrEqual(t, time.Since(began), 2*time.Second)
			})
		})
	}
}

// TestADuplicateWithoutWakeUps: where the store cannot tell of the end, somebody who waits
// for it finds out.
func TestADuplicateWithoutWakeUps(t *testing.T) {
	for _, watch := range []func(context.Context) error{fails, hangs} {
		synctest.Test(t, func(t *testing.T) {
			send := server(t, &troubled{Store: idempotency.NewMemoryStore(), watch: watch}, idempotency.Options{}, func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(3 * time.Second)
				fmt.Fprint(w, "first")
			})
			done := make(chan struct{})
			go func() {
				defer close(done)
				send()
			}()
			synctest.Wait()
			began := time.Now()
			again := send()
			assert.Equal(t, http.StatusOK, again.Code)
			assert.Equal(t, "first", again.Body.String())
			assert.Less(t, time.Since(began), 5*time.Second)
			<-done
		})
	}
}

// TestALostLeaseThatTheHandlerNotices: a handler that gives up because its lease is lost
// is not what the client hears of, if somebody else runs the request.
func TestALostLeaseThatTheHandlerNotices(t *testing.T) {
	for name, tt := range map[string]struct {
		second http.HandlerFunc
		code   int
		body   string
	}{
		"the other one finishes": {func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(2 * time.Second)
			fmt.Fprint(w, "second")
		}, http.StatusOK, "second"},
		"the other one fails as well": {func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(2 * time.Second)
			w.WriteHeader(http.StatusBadGateway)
		}, http.StatusServiceUnavailable, "first"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := idempotency.NewMemoryStore()
				o := idempotency.Options{Lease: time.Second}
				first := server(t, &troubled{Store: store, extend: fails}, o, func(w http.ResponseWriter, r *http.Request) {
					<-r.Context().Done()
					time.Sleep(time.Second) // somebody else has begun
					w.WriteHeader(http.StatusServiceUnavailable)
					fmt.Fprint(w, "first")
				})
				got := make(chan *httptest.ResponseRecorder)
				go func() { got <- first() }()
				synctest.Wait()
				second := server(t, store, o, tt.second)
				second()
				w := <-got
				assert.Equal(t, tt.code, w.Code)
				assert.Equal(t, tt.body, w.Body.String())
			})
		})
	}
}

// TestTheStoreIsAwayForAMomentAtTheEnd: the client gets the response at once, and those that
// wait for it do not run the handler again because it could not be stored at that moment.
func TestTheStoreIsAwayForAMomentAtTheEnd(t *testing.T) {
	for _, finish := range []func(context.Context) error{fails, hangs, func(context.Context) error { panic("boom") }} {
		for _, long := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				back := time.Now().Add(6 * time.Second)
				store := &troubled{Store: idempotency.NewMemoryStore(), finish: func(ctx context.Context) error {
					if time.Now().Before(back) {
						return finish(ctx)
					}
					return nil
				}}
				o := idempotency.Options{}
				if long {
					o.MaxResponse = 3
				}
				var runs atomic.Int64
				send := server(t, store, o, func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(2 * time.Second)
					fmt.Fprint(w, "payment ", runs.Add(1))
				})
				var again *httptest.ResponseRecorder
				first := make(chan struct{})
				go func() {
					defer close(first)
					began := time.Now()
					assert.Equal(t, "payment 1", send().Body.String())
					assert.LessOrEqual(t, time.Since(began), 3*time.Second)
				}()
				synctest.Wait()
				again = send()
				<-first
				assert.EqualValues(t, 1, runs.Load())
				if long {
					assert.Equal(t, http.StatusConflict, again.Code)
				} else {
					assert.Equal(t, "payment 1", again.Body.String())
				}
			})
		}
	}
}

// TestOneExtensionThatHangs: a lease is not lost because of one connection that hangs.
func TestOneExtensionThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var extensions atomic.Int64
		store := &troubled{Store: idempotency.NewMemoryStore(), extend: func(ctx context.Context) error {
			if extensions.Add(1) == 1 {
				return hangs(ctx)
			}
			return nil
		}}
		send := server(t, store, idempotency.Options{}, func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				t.Errorf("the context has ended: %v", context.Cause(r.Context()))
			case <-time.After(time.Minute):
			}
			fmt.Fprint(w, "done")
		})
		assert.Equal(t, "done", send().Body.String())
	})
}
