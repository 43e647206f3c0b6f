// Package docs_test keeps the documents true.
package docs_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/fence"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/redisidempotency"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

// TestDocumentsNameTestsThatExist: each promise of failure.md, and each claim of
// security.md, names the test that shows it.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
			tests[m[1]] = true
		}
		return err
	}))
	for name, atLeast := range map[string]int{"failure.md": 100, "security.md": 30} {
		named := regexp.MustCompile("`(Test[A-Z]\\w+)`").FindAllStringSubmatch(read(t, name), -1)
		require.GreaterOrEqual(t, len(named), atLeast, name)
		for _, m := range named {
			assert.True(t, tests[m[1]], "%s names %s, which does not exist", name, m[1])
		}
	}
	for _, line := range strings.Split(read(t, "security.md"), "\n") {
		if strings.Contains(line, "| met |") {
			assert.Contains(t, line, "`Test", "what is met has a test that shows it")
		}
	}
}

// TestReadmeShowsTheProgramsThatAreTested: the programs in the README are parts
// of files that are compiled, and tested by examples/quickstart.
func TestReadmeShowsTheProgramsThatAreTested(t *testing.T) {
	shown := regexp.MustCompile("(?s)<!-- (\\S+\\.go) -->\n```go\n(.*?)\n```").FindAllStringSubmatch(read(t, "../README.md"), -1)
	require.Len(t, shown, 2)
	for _, m := range shown {
		assert.Contains(t, read(t, filepath.Join("..", m[1])), m[2], "the README shows something else than %s", m[1])
	}
}

// TestRedisIsWhatTheDocumentSays runs every feature on a real server, records
// what it is asked, and holds that against redis.md in both directions.
func TestRedisIsWhatTheDocumentSays(t *testing.T) {
	document := read(t, "redis.md")
	patterns := map[string]*regexp.Regexp{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(herdless:[^`]+)`").FindAllStringSubmatch(document, -1) {
		expr := regexp.QuoteMeta(m[1])
		expr = regexp.MustCompile(`<[^>]*>|\\{T\\}`).ReplaceAllStringFunc(expr, func(s string) string {
			if s == `\{T\}` {
				return `\{.+\}`
			}
			return `.+`
		})
		patterns[m[1]] = regexp.MustCompile("^" + expr + "$")
	}
	require.GreaterOrEqual(t, len(patterns), 7)

	server := redistest.NewStandalone(t)
	recorded := record(t, server, func(rdb *redis.Client) { exercise(t, rdb) })
	require.NotEmpty(t, recorded)

	seen := map[string]bool{}
	handshake := map[string]bool{"HELLO": true, "CLIENT": true, "PING": true, "SELECT": true, "EVAL": true}
	for _, command := range recorded {
		if name := strings.ToUpper(command[0]); !handshake[name] {
			assert.True(t, strings.Contains(document, name), "redis.md does not name the command %v", command)
		}
		for _, arg := range command[1:] {
			if !strings.HasPrefix(arg, "herdless:") {
				continue
			}
			known := false
			for name, pattern := range patterns {
				if pattern.MatchString(arg) {
					known, seen[name] = true, true
				}
			}
			assert.True(t, known, "redis.md does not name the key %q of %v", arg, command)
		}
	}
	for name := range patterns {
		assert.True(t, seen[name], "redis.md names the key %s, which no feature used", name)
	}

	rdb := server.Client(t)
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		left, err := rdb.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		assert.Positive(t, left, "%s has no TTL", key)
	}
}

// exerciseCache goes through what no page needs.
func exerciseCache(t *testing.T, store *rediscache.Store) {
	ctx := t.Context()
	require := require.New(t)
	noise := make([]byte, 3<<10) // more than a chunk
	_, _ = rand.Read(noise)
	entry := cache.Entry{Kind: cache.Value, TTL: time.Minute, StaleFor: time.Minute, Data: noise, Tags: []string{"tag"}}
	for range 2 {
		first, err := store.BeginWrite(ctx, "written", time.Minute)
		require.NoError(err)
		second, err := store.BeginWrite(ctx, "written", time.Minute)
		require.NoError(err)
		b, err := store.Begin(ctx, "written", cache.Filling{Token: 1, TTL: time.Minute})
		require.NoError(err)
		_, err = store.Fill(ctx, "written", b.Ticket, entry)
		require.NoError(err)
		for _, ticket := range []cache.Ticket{first, second} {
			_, err = store.Write(ctx, "written", ticket, entry)
			require.NoError(err)
		}
	}
	_, err := store.BeginWrite(ctx, "never ended", time.Minute)
	require.NoError(err)
	_, err = store.GetMany(ctx, []string{"written", "missing"})
	require.NoError(err)
	w, err := store.CreateBody(ctx, "body", time.Minute)
	require.NoError(err)
	_, err = w.Write(noise)
	require.NoError(err)
	body, err := w.Finish()
	require.NoError(err)
	r, err := store.OpenBody(ctx, "body", body)
	require.NoError(err)
	_, err = io.Copy(io.Discard, r)
	require.NoError(err)
	w, err = store.CreateBody(ctx, "given up", time.Minute)
	require.NoError(err)
	_, err = w.Write(bytes.Repeat([]byte("x"), 1100<<10)) // more than goes into one pipeline
	require.NoError(err)
	w.Abort()
	for _, p := range []cache.Purge{
		{Keys: []string{"written"}, Soft: true},
		{Keys: []string{"written"}},
		{Tags: []string{"tag"}},
		{Prefixes: []string{"wr"}, Soft: true},
		{All: true, Soft: true},
	} {
		require.NoError(store.Purge(ctx, p))
	}
}

// exerciseSessions goes through what takes other options, or a second client.
func exerciseSessions(t *testing.T, store session.Store) {
	ctx := t.Context()
	first, second := session.Digest{1}, session.Digest{2}
	create := session.Delta{
		ID: "adas-first", Digest: first, Create: true, Owner: "adas-owner", MaxOwned: 1, EvictOldest: true,
		IdleTimeout: time.Minute, AbsoluteTimeout: time.Minute,
	}
	for _, id := range []string{"adas-first", "adas-second"} {
		create.ID = id
		_, err := store.Commit(ctx, create)
		require.NoError(t, err)
	}
	_, err := store.Commit(ctx, session.Delta{
		ID: create.ID, Digest: first, Rotate: &session.Rotation{Digest: second, Grace: time.Minute, Handover: []byte("to you")},
	})
	require.NoError(t, err)
	_, err = store.Load(ctx, create.ID, first)
	require.NoError(t, err)
	for _, hold := range []time.Duration{time.Second, 0} {
		_, err = store.Take(ctx, create.ID, second, "taker", hold)
		require.NoError(t, err)
	}
	_, err = store.Alive(ctx, []string{create.ID})
	require.NoError(t, err)
	stop, err := store.Watch(ctx, create.ID, make(chan struct{}, 1))
	require.NoError(t, err)
	stop()
}

// exerciseTraffic counts a request, and more members of a board than it has room for.
func exerciseTraffic(t *testing.T, rdb *redis.Client) {
	figures, err := traffic.New(redistraffic.New(rdb, nil), &traffic.Options{Interval: time.Hour})
	require.NoError(t, err)
	board, err := figures.Board("players", &traffic.BoardOptions{Capacity: 1})
	require.NoError(t, err)
	for i := range 5 {
		figures.Record(traffic.Hit{Route: "GET /{$}", Path: "/", Status: http.StatusOK, Visitor: "ada"})
		board.Add(strconv.Itoa(i), int64(i+1))
		require.NoError(t, figures.Flush(t.Context()))
	}
	_, err = figures.Report(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Minute), traffic.UnitMinute)
	require.NoError(t, err)
	_, err = board.Top(t.Context(), traffic.Day, 10)
	require.NoError(t, err)
	_, err = board.Around(t.Context(), traffic.AllTime, "4", 1)
	require.NoError(t, err)
	require.NoError(t, figures.Close(t.Context()))
}

// exercise goes through every operation of every store.
func exercise(t *testing.T, rdb *redis.Client) {
	ctx := t.Context()
	require := require.New(t)

	locker, err := lock.New(redislock.New(rdb, nil), nil)
	require.NoError(err)
	lease, err := locker.TryAcquire(ctx, "report", 2*time.Second)
	require.NoError(err)
	waitCtx, cancel := context.WithTimeout(ctx, time.Second) // long enough for a renewal
	defer cancel()
	_, err = locker.Acquire(waitCtx, "report", time.Second)
	require.ErrorIs(err, lock.ErrNotAcquired)
	require.NoError(lease.Release(ctx))
	for range 2 {
		shared, err := locker.Semaphore(2).TryAcquire(ctx, "report", 2*time.Second)
		require.NoError(err)
		defer func() { require.NoError(shared.Release(ctx)) }()
	}
	waitCtx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = locker.Semaphore(2).Acquire(waitCtx, "report", time.Second)
	require.ErrorIs(err, lock.ErrNotAcquired)
	_, err = locker.Fair().Acquire(waitCtx, "report", time.Second)
	require.ErrorIs(err, lock.ErrNotAcquired)
	lease, err = locker.TryAcquire(ctx, "another report", time.Minute)
	require.NoError(err)
	t.Cleanup(func() { _ = lease.Release(context.WithoutCancel(ctx)) })
	for _, ttl := range []time.Duration{0, time.Minute} { // the last leaves a TTL
		require.NoError(redislock.FencedSet(ctx, rdb, "ledger", "text", lease.Token(), ttl))
	}
	require.ErrorIs(redislock.FencedSet(ctx, rdb, "ledger", "late", 1, time.Minute), fence.ErrStale)
	_, _, err = redislock.FencedGet(ctx, rdb, "ledger")
	require.NoError(err)

	var wg sync.WaitGroup
	for range 4 { // the second and third release for one who waits
		wg.Go(func() {
			assert.NoError(t, locker.Do(ctx, "contended", time.Minute, func(context.Context, uint64) error {
				<-time.After(30 * time.Millisecond) // it is not handed on
				return nil
			}))
		})
	}
	wg.Wait()

	pages, err := responsecache.New(rediscache.New(rdb, nil), &responsecache.Options{Locker: locker, StoreTimeout: 5 * time.Second})
	require.NoError(err)
	page := pages.With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Vary", "Accept")
		_, _ = w.Write([]byte("page"))
	}))
	for range 2 {
		page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://example.com/page", nil))
	}
	require.NoError(pages.Purge(ctx, "http://example.com/page"))
	page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://example.com/page", nil))
	store := rediscache.New(rdb, nil)
	begun, err := store.Begin(ctx, "begun", cache.Filling{Token: 1, TTL: time.Minute})
	require.NoError(err)
	_, stop, err := store.Watch(ctx, "begun")
	require.NoError(err)
	_, err = store.Fill(ctx, "begun", begun.Ticket, cache.Entry{Kind: cache.Value, TTL: time.Minute})
	require.NoError(err)
	stop()
	exerciseCache(t, rediscache.New(rdb, &rediscache.Options{ChunkBytes: 1 << 10}))

	sessions, err := session.New(redisstore.New(rdb, nil), nil)
	require.NoError(err)
	var cookies []*http.Cookie
	visit := func(do func(ctx context.Context, s *session.Session) error) {
		r := httptest.NewRequest(http.MethodGet, "http://example.com/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		sessions.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			require.NoError(do(r.Context(), session.FromContext(r.Context())))
		})).ServeHTTP(w, r)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookies = set
		}
	}
	visit(func(ctx context.Context, s *session.Session) error { return s.Set(ctx, "cart", 1) })
	visit(func(ctx context.Context, s *session.Session) error { return s.Login(ctx, "ada") })
	visit(func(ctx context.Context, s *session.Session) error { return s.Delete(ctx, "cart") })
	visit(func(ctx context.Context, s *session.Session) error { _, err := s.Add(ctx, "visits", 1); return err })
	visit(func(ctx context.Context, s *session.Session) error {
		_, stop, err := s.Context(ctx)
		require.NoError(err)
		defer stop()
		_, err = s.Sessions(ctx)
		return err
	})
	visit(func(ctx context.Context, s *session.Session) error { return s.Destroy(ctx) })
	cookies = nil
	visit(func(ctx context.Context, s *session.Session) error { return s.Login(ctx, "ada") })
	_, err = sessions.RevokeAll(ctx, "ada")
	require.NoError(err)
	exerciseSessions(t, redisstore.New(rdb, nil))
	cookies = nil
	visit(func(ctx context.Context, s *session.Session) error { return s.Set(ctx, "cart", 2) })

	exerciseLimits(t, redislimit.New(rdb, nil))
	exerciseLimitsInTurn(t, rdb.Options().Addr)

	exerciseTraffic(t, rdb)

	once := redisidempotency.New(rdb, nil)
	payment := idempotency.Begin{Lease: time.Minute, TTL: time.Minute}
	for _, owner := range []string{"a", "b"} {
		payment.Owner = owner
		_, err = once.Begin(ctx, "payment", payment)
		require.NoError(err)
	}
	_, stop, err = once.Watch(ctx, "payment")
	require.NoError(err)
	stop()
	_, err = once.Extend(ctx, "payment", "a", time.Minute)
	require.NoError(err)
	require.NoError(once.Abandon(ctx, "payment", "a"))
	_, err = once.Begin(ctx, "payment", payment)
	require.NoError(err)
	_, err = once.Finish(ctx, "payment", payment.Owner, []byte("paid"), time.Minute)
	require.NoError(err)
}

// exerciseLimits goes through every kind of limit.
func exerciseLimits(t *testing.T, store *redislimit.Store) {
	ctx := t.Context()
	require := require.New(t)
	limiter, err := ratelimit.NewPolicies(store, []ratelimit.Policy{
		{Name: "api", Limits: []ratelimit.Limit{ratelimit.PerMinute(2), ratelimit.Window(1000, time.Hour)}, Key: ratelimit.Everybody},
	}, nil)
	require.NoError(err)
	for range 3 {
		_, err = limiter.AtMost(ctx, 2, "client")
		require.NoError(err)
	}
	require.NoError(limiter.Reset(ctx, "nobody"))
	permit := ratelimit.PermitRequest{Key: "client", Name: "exports", Limit: 2, TTL: time.Minute}
	for _, id := range []string{"a", "b"} {
		permit.ID = id
		_, err = store.Acquire(ctx, permit)
		require.NoError(err)
	}
	_, err = store.Extend(ctx, permit)
	require.NoError(err)
	require.NoError(store.Release(ctx, permit))
}

// exerciseLimitsInTurn has units given back, as on a Cluster, by a Ring of one server.
func exerciseLimitsInTurn(t *testing.T, addr string) {
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"only": addr}})
	defer ring.Close()
	store := redislimit.New(ring, nil)
	both := ratelimit.Request{Checks: []ratelimit.Check{
		{Key: "client", Name: "roomy", Limit: ratelimit.PerMinute(100), N: 1},
		{Key: "everybody", Name: "narrow", Limit: ratelimit.PerMinute(1), N: 1},
	}}
	for _, want := range []bool{true, false} {
		d, err := store.Take(t.Context(), both)
		require.NoError(t, err)
		require.Equal(t, want, d.Allowed)
	}
}

// record returns the commands, those of scripts included, that the server was
// sent during run.
func record(t *testing.T, server *redistest.Server, run func(rdb *redis.Client)) [][]string {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = conn.Write([]byte("MONITOR\r\n"))
	require.NoError(t, err)
	lines := bufio.NewReader(conn)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", line)

	rdb := server.Client(t)
	run(rdb)
	const end = "end of the record"
	require.NoError(t, rdb.Do(t.Context(), "echo", end).Err())
	var commands [][]string
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		command := parseMonitor(line)
		if len(command) == 2 && command[1] == end {
			return commands
		}
		if len(command) > 0 {
			commands = append(commands, command)
		}
	}
}

// parseMonitor takes a line such as `1.2 [0 lua] "get" "key"` apart.
func parseMonitor(line string) []string {
	_, args, ok := strings.Cut(line, "] ")
	if !ok {
		return nil
	}
	var command []string
	for _, m := range regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(args, -1) {
		command = append(command, m[1])
	}
	return command
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}
