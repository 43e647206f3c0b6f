package responsecachetest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/herdless/herdless/responsecache"
)

// servers are those of one run, by what their caches are like.
type servers struct {
	t     *testing.T
	setup Setup
	proto string

	mu  sync.Mutex
	all map[serverKey]*server
}

type serverKey struct {
	profile responsecache.Profile
	policy  *responsecache.Policy
}

func newServers(t *testing.T, s Setup, proto string) *servers {
	return &servers{t: t, setup: s, proto: proto, all: map[serverKey]*server{}}
}

func (ss *servers) of(profile responsecache.Profile, policy *responsecache.Policy) *server {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	key := serverKey{profile, policy}
	if ss.all[key] == nil {
		var p responsecache.Policy
		if policy != nil {
			p = *policy
		}
		ss.all[key] = newServer(ss.t, ss.setup, ss.proto, profile, p)
	}
	return ss.all[key]
}

// server is one with a cache in it. Scenarios share it, each on a path of its own.
type server struct {
	*httptest.Server
	proto  string
	client http.RoundTripper
	// fresh uses no connection twice: on a used one, a request that has broken
	// off might be sent again.
	fresh http.RoundTripper

	mu   sync.Mutex
	runs map[string]*run // by the first segment of the path
}

func newServer(t *testing.T, setup Setup, proto string, profile responsecache.Profile, policy responsecache.Policy) *server {
	s := &server{proto: proto, runs: map[string]*run{}}
	cached := setup.New(t, profile, policy, http.HandlerFunc(s.origin))
	entered := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if run := s.find(r); run != nil {
			run.entered.Add(1)
		}
		cached.ServeHTTP(w, r)
	})
	s.Server = httptest.NewUnstartedServer(entered)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if proto == http2 {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	transport, ok := s.Client().Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the client of httptest has a %T", s.Client().Transport)
	}
	transport.DisableCompression = true
	transport.MaxIdleConnsPerHost = 16
	s.client, s.fresh = transport, transport
	if proto == http1 {
		fresh := transport.Clone()
		fresh.DisableKeepAlives = true
		s.fresh = fresh
	}
	return s
}

func (s *server) add(id string, r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[id] = r
}

func (s *server) find(r *http.Request) *run {
	id, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[id]
}

// origin is the handler that is wrapped.
func (s *server) origin(w http.ResponseWriter, r *http.Request) {
	run := s.find(r)
	if run == nil {
		http.Error(w, "no scenario has this path", http.StatusInternalServerError)
		return
	}
	run.serve(w, r)
}

// response is what the client got.
type response struct {
	status   int
	header   http.Header
	body     string
	interims []int
	err      error // there is no response, or not all of it
}

func (s *server) do(ctx context.Context, st *step, url string, lines []string) *response {
	var body io.Reader
	if st.content != "" {
		body = strings.NewReader(st.content)
	}
	got := &response{}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			got.interims = append(got.interims, code)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, st.method, url, body)
	if err != nil {
		return &response{err: err}
	}
	req.Header = parseLines(lines)
	if host := values(req.Header, "Host"); len(host) > 0 {
		req.Host = host[0]
		req.Header.Del("Host")
	}
	client := s.client
	if st.aborted {
		client = s.fresh
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		got.err = err
		return got
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	got.status, got.header, got.body = resp.StatusCode, resp.Header, string(b)
	if err != nil {
		got.err = fmt.Errorf("the body: %w", err)
	}
	if want := map[string]int{http1: 1, http2: 2}[s.proto]; resp.ProtoMajor != want {
		got.err = fmt.Errorf("the response came by %s", resp.Proto)
	}
	return got
}
