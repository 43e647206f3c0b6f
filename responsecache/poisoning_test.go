package responsecache_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a client certificate has brought is for its owner only, unless it is public.
func TestACertificateIsACredentialInEitherProfile(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{Profile: responsecache.Conformance})
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		who := "nobody"
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			who = "alice"
		}
		fmt.Fprint(w, who)
	}))
	get := func(cert bool) string {
		r := httptest.NewRequest("GET", "https://example.com/me", nil)
		r.TLS = &tls.ConnectionState{}
		if cert {
			r.TLS.PeerCertificates = []*x509.Certificate{{}}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Body.String()
	}
	assert.Equal(t, "alice", get(true))
	assert.Equal(t, "nobody", get(false))
}

// Two queries were the same page by a No-Vary-Search that the handler does not send
// any more: who waits for one of them does not get the other.
func TestNobodyReadsAlongUnderARuleThatIsGone(t *testing.T) {
	var second atomic.Bool
	proceed := make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if !second.Load() {
			w.Header().Set("No-Vary-Search", `params=("u")`)
			fmt.Fprint(w, "first")
			return
		}
		fmt.Fprint(w, "for ", r.URL.Query().Get("u"), ".")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Query().Get("u") == "1" {
			<-proceed
		}
	})
	require.Equal(t, "first", s.get(t, "/page?u=0").body)
	require.Equal(t, "first", s.get(t, "/page?u=1").body)
	require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/page?u=0"))
	second.Store(true)
	leader := s.open(t, "/page?u=1")
	assert.Equal(t, "for 1.", leader.read(t, 6))
	time.AfterFunc(time.Second, func() { close(proceed) })
	assert.Equal(t, "for 2.", s.get(t, "/page?u=2").body)
}

func TestNobodyQueuesUnderARuleThatIsGone(t *testing.T) {
	var second atomic.Bool
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if !second.Load() {
			w.Header().Set("No-Vary-Search", `params=("u")`)
			fmt.Fprint(w, "first")
			return
		}
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(w, "for ", r.URL.Query().Get("u"), ".")
	})
	require.Equal(t, "first", s.get(t, "/page?u=0").body)
	require.Equal(t, "first", s.get(t, "/page?u=1").body)
	require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/page?u=0"))
	second.Store(true)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { assert.Equal(t, fmt.Sprintf("for %d.", i), s.get(t, fmt.Sprintf("/page?u=%d", i)).body) })
	}
	wg.Wait()
	assert.Less(t, time.Since(began), 1500*time.Millisecond)
}

// A purge wins over a variant that is being made, also if that begins a new index.
func TestAPurgeWhileAVariantTurnsOutToVaryOnMore(t *testing.T) {
	var phase atomic.Int32
	began, proceed := make(chan struct{}), make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "A")
		p := phase.Load()
		if p == 1 {
			phase.Store(2)
			w.Header().Set("Vary", "A, B")
			close(began)
			<-proceed
		}
		fmt.Fprint(w, "phase ", p)
	})
	require.Equal(t, "phase 0", s.get(t, "/page", "A", "0").body)
	phase.Store(1)
	var wg sync.WaitGroup
	wg.Go(func() { assert.Equal(t, "phase 1", s.get(t, "/page", "A", "1").body) })
	<-began
	require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/page"))
	close(proceed)
	wg.Wait()
	assert.Equal(t, "phase 2", s.get(t, "/page", "A", "1").body)
}

func TestAPurgeWhileARuleIsLearned(t *testing.T) {
	var phase atomic.Int32
	began, proceed := make(chan struct{}), make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("No-Vary-Search", `params=("u")`)
		if r.URL.Path == "/other" {
			fmt.Fprint(w, "other")
			return
		}
		p := phase.Add(1)
		if p == 1 {
			close(began)
			<-proceed
		}
		fmt.Fprint(w, "phase ", p)
	})
	require.Equal(t, "other", s.get(t, "/other?u=1").body)
	var wg sync.WaitGroup
	wg.Go(func() { assert.Equal(t, "phase 1", s.get(t, "/page?u=1").body) })
	<-began
	require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/page?u=1"))
	close(proceed)
	wg.Wait()
	assert.Equal(t, "phase 2", s.get(t, "/page?u=1").body)
}

func TestAPurgeReachesWhatIsUnderAFormerRule(t *testing.T) {
	var n atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("a") {
			w.Header().Set("No-Vary-Search", `params=("u")`)
		}
		fmt.Fprint(w, "run ", n.Add(1))
	})
	require.Equal(t, "run 1", s.get(t, "/page?a=1").body)
	require.Equal(t, "run 1", s.get(t, "/page?a=1").body)
	require.Equal(t, "run 2", s.get(t, "/page?b=1").body)
	require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/page?a=1"))
	require.Equal(t, "run 3", s.get(t, "/page?a=1").body)
	assert.Equal(t, "run 3", s.get(t, "/page?a=1").body)
}

// Nobody takes a fresh page from the others by a request that does not want it and
// that the handler refuses.
func TestAnErrorOfOneClientLeavesAFreshPage(t *testing.T) {
	var n atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "bad" {
			http.Error(w, "bad", 400)
			return
		}
		fmt.Fprint(w, "run ", n.Add(1))
	})
	require.Equal(t, "run 1", s.get(t, "/page").body)
	assert.Equal(t, 400, s.get(t, "/page", "Cache-Control", "no-cache", "Accept", "bad").status)
	r := s.get(t, "/page")
	assert.Equal(t, "run 1", r.body, r.cacheStatus())
}

func TestAFailureLeavesAFreshPageFresh(t *testing.T) {
	var fails atomic.Bool
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
		if fails.Load() {
			w.WriteHeader(503)
			return
		}
		fmt.Fprint(w, "page")
	})
	require.Equal(t, "page", s.get(t, "/page").body)
	time.Sleep(1100 * time.Millisecond)
	fails.Store(true)
	require.Equal(t, "page", s.get(t, "/page", "Cache-Control", "max-age=0").body)
	time.Sleep(1100 * time.Millisecond)
	r := s.get(t, "/page")
	assert.Contains(t, r.cacheStatus(), "hit")
	assert.NotContains(t, r.cacheStatus(), "ttl=-", "still fresh")
}

func TestAPanicAfterAFailureIsHiddenToo(t *testing.T) {
	var fails atomic.Bool
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
		if fails.Load() {
			w.WriteHeader(503)
			panic("boom")
		}
		fmt.Fprint(w, "page")
	})
	s.Config.ErrorLog = discardLog
	require.Equal(t, "page", s.get(t, "/page").body)
	require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
	fails.Store(true)
	assert.Equal(t, "page", s.get(t, "/page").body)
}

// An error has no say in which parts of the query name the pages of its path.
func TestAnErrorLeavesTheRuleOfItsPath(t *testing.T) {
	var runs atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if r.URL.Query().Get("id") == "none" {
			http.Error(w, "there is none", http.StatusNotFound)
			return
		}
		w.Header().Set("No-Vary-Search", `params=("u")`)
		fmt.Fprintf(w, "run %d", runs.Add(1))
	})
	require.Equal(t, "run 1", s.get(t, "/page?id=1&u=1").body)
	await(t, "the rule", func() bool { return s.get(t, "/page?id=1&u=2").body == "run 1" })
	for range 2 {
		assert.Equal(t, 404, s.get(t, "/page?id=none&u=1").status)
	}
	r := s.get(t, "/page?id=1&u=3")
	assert.Equal(t, "run 1", r.body, r.cacheStatus())
}

// A handler may look at the first line of a field, or at the first member, or at small letters
// only: a client that knows how to make it find nothing does not make the page of others.
func TestOnesPreferencesAreNotAnothers(t *testing.T) {
	for _, poison := range [][]string{{"", "de, en;q=0.5"}, {",de,en;q=0.5"}, {"DE, en;q=0.5"}, {"de;q=1.0,en;q=0.5"}} {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Accept-Language")
			first, _, _ := strings.Cut(r.Header.Get("Accept-Language"), ",")
			if first == "de" {
				fmt.Fprint(w, "Guten Tag")
				return
			}
			fmt.Fprint(w, "Hello")
		})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/page", nil)
		require.NoError(t, err)
		r.Header["Accept-Language"] = poison
		resp, err := s.Client().Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for range 2 {
			assert.Equal(t, "Guten Tag", s.get(t, "/page", "Accept-Language", "de, en;q=0.5").body, "%q", poison)
		}
	}
}
