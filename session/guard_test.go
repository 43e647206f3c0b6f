package session_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hungStore never answers.
type hungStore struct{ session.Store }

func (hungStore) Load(ctx context.Context, _ string, _ session.Digest) (session.Record, error) {
	<-ctx.Done()
	return session.Record{}, ctx.Err()
}

func (hungStore) Commit(ctx context.Context, _ session.Delta) (session.Result, error) {
	<-ctx.Done()
	return session.Result{}, ctx.Err()
}

func (hungStore) Delete(ctx context.Context, _ string) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

// The context of a request has no deadline; the session's steps have.
func TestAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := session.New(hungStore{}, &session.Options{StoreTimeout: 300 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		began := time.Now()
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			assert.NoError(t, session.FromContext(r.Context()).Set(r.Context(), "name", "value"))
		})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://example.com/", nil))
		assert.Equal(t, http.StatusServiceUnavailable, w.Code)
		assert.Equal(t, 300*time.Millisecond, time.Since(began))
	})
}
