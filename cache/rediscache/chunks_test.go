package rediscache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noise returns n bytes that cannot be compressed, always the same.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func writeBody(t *testing.T, s *rediscache.Store, key string, data []byte) cache.Body {
	t.Helper()
	w, err := s.CreateBody(t.Context(), key, time.Hour)
	require.NoError(t, err)
	_, err = io.Copy(w, bytes.NewReader(data))
	require.NoError(t, err)
	b, err := w.Finish()
	require.NoError(t, err)
	return b
}

func readBody(s *rediscache.Store, key string, b cache.Body) ([]byte, error) {
	return readBodyFrom(s, key, b, 0)
}

// readBodyFrom returns what can be read from an offset on. It is the same if the body
// is read and if it writes itself.
func readBodyFrom(s *rediscache.Store, key string, b cache.Body, offset int64) ([]byte, error) {
	read := func(all func(io.Reader) ([]byte, error)) ([]byte, error) {
		r, err := s.OpenBody(context.Background(), key, b)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if offset > 0 {
			if _, err := r.(io.Seeker).Seek(offset, io.SeekStart); err != nil {
				return nil, err
			}
		}
		return all(r)
	}
	got, err := read(io.ReadAll)
	written, err2 := read(func(r io.Reader) ([]byte, error) {
		var b bytes.Buffer
		_, err := r.(io.WriterTo).WriteTo(&b)
		return b.Bytes(), err
	})
	if !bytes.Equal(got, written) || fmt.Sprint(err) != fmt.Sprint(err2) {
		return nil, fmt.Errorf("read: %d bytes, %w; written: %d bytes, %w", len(got), err, len(written), err2)
	}
	return got, err
}

// fussy is a writer that takes so many bytes.
type fussy struct {
	bytes.Buffer
	takes int
	err   error
}

func (w *fussy) Write(p []byte) (int, error) {
	n := min(len(p), w.takes)
	w.takes -= n
	_, _ = w.Buffer.Write(p[:n])
	if n < len(p) {
		return n, w.err
	}
	return n, nil
}

// What a writer has not taken can be read afterwards.
func TestAWriterDoesNotTakeAllOfABody(t *testing.T) {
	s := rediscache.New(redistest.Standalone(t).Client(t), &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: 1 << 10})
	data := noise(5000)
	body := writeBody(t, s, "key", data)
	for _, fault := range []error{io.ErrClosedPipe, nil} {
		for _, takes := range []int{0, 1, 1 << 10, 3000, 4999} {
			r, err := s.OpenBody(t.Context(), "key", body)
			require.NoError(t, err)
			w := &fussy{takes: takes, err: fault}
			n, err := r.(io.WriterTo).WriteTo(w)
			assert.EqualValues(t, takes, n)
			if fault == nil {
				fault = io.ErrShortWrite
			}
			require.Equal(t, fault, err, "it is the writer's")
			rest, err := io.ReadAll(r)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(data, append(w.Bytes(), rest...)), takes)
			require.NoError(t, r.Close())
		}
	}
}

// Whoever reads a body shares its memory with nobody, also when others have closed
// theirs, at the end or before, once or twice.
func TestBodiesShareNoMemory(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: 2 << 10})
	data := noise(64 << 10)
	var wg sync.WaitGroup
	for g := range 16 {
		key, mine := fmt.Sprint("key", g), data[g<<10:][:g*1000+10_000]
		body := writeBody(t, s, key, mine)
		wg.Go(func() {
			for i := range 50 {
				r, err := s.OpenBody(t.Context(), key, body)
				if !assert.NoError(t, err) {
					return
				}
				part := make([]byte, i*50)
				_, err = io.ReadFull(r, part)
				assert.NoError(t, err)
				if i%3 > 0 {
					var rest bytes.Buffer
					_, err := io.Copy(&rest, r)
					assert.NoError(t, err)
					part = append(part, rest.Bytes()...)
					assert.Len(t, part, len(mine))
				}
				assert.True(t, bytes.HasPrefix(mine, part))
				assert.NoError(t, r.Close())
				if i%2 == 0 {
					assert.NoError(t, r.Close())
				}
				_, err = io.Copy(io.Discard, r)
				assert.Error(t, err)
			}
		})
	}
	wg.Wait()
}

// Who waits for his turn takes no memory: how many read at once is not known.
func TestWhoWaitsForItsTurnHoldsNoBuffers(t *testing.T) {
	s := rediscache.New(redistest.Standalone(t).Client(t), &rediscache.Options{Prefix: redistest.Prefix(t)})
	const readers, part = 64, 512 << 10
	data := noise(2 * part)
	body := writeBody(t, s, "key", data)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what lies in pools goes with the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	bodies := make([]io.ReadCloser, readers)
	for i := range bodies {
		r, err := s.OpenBody(t.Context(), "key", body)
		require.NoError(t, err)
		defer r.Close()
		_, err = io.CopyN(io.Discard, r, part)
		require.NoError(t, err)
		bodies[i] = r
	}
	giveBack := s.TakeTurns()
	var wg sync.WaitGroup
	for _, r := range bodies {
		wg.Go(func() {
			var rest bytes.Buffer
			_, err := io.Copy(&rest, r)
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(data[part:], rest.Bytes()))
		})
	}
	assert.Eventually(t, func() bool { return heap()-before < readers/4*part }, 10*time.Second, time.Millisecond)
	giveBack()
	wg.Wait()
}

// What one process has written another one reads, from wherever it wants, even if
// they do not agree on how long chunks are.
func TestABodyInChunksOfAnotherSize(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	reader := rediscache.New(rdb, &rediscache.Options{Prefix: prefix})
	for _, chunk := range []int{1 << 10, 100_001, 1 << 20} {
		for _, size := range []int{1, chunk, 3*chunk + 1, 5*chunk - 1} {
			key, data := fmt.Sprint(chunk, " ", size), noise(size)
			writer := rediscache.New(rdb, &rediscache.Options{Prefix: prefix, ChunkBytes: chunk})
			body := writeBody(t, writer, key, data)
			for _, from := range []int{0, 1, size / 2, chunk, size - 1, size} {
				got, err := readBodyFrom(reader, key, body, int64(from))
				require.NoError(t, err, "%s from %d", key, from)
				assert.True(t, bytes.Equal(data[min(from, size):], got), "%s from %d", key, from)
			}
		}
	}
}

func TestAClosedBodyIsNotSoughtIn(t *testing.T) {
	s := rediscache.New(redistest.Standalone(t).Client(t), &rediscache.Options{Prefix: redistest.Prefix(t)})
	_, err := readBodyFrom(s, "key", cache.Body{ID: strings.Repeat("0f", 16) + ".0", Size: 5}, 3)
	require.ErrorIs(t, err, cache.ErrNoBody, "bytes in no chunk")
	r, err := s.OpenBody(t.Context(), "key", writeBody(t, s, "key", noise(3000)))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	_, err = r.(io.Seeker).Seek(0, io.SeekStart)
	require.ErrorContains(t, err, "rediscache: seek in body: ")
	_, err = r.Read(make([]byte, 1))
	require.Error(t, err)
}

func TestLongDataAndBodies(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		data := noise(5 << 20)
		for i, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 1 << 20, 1<<20 + 1, 5 << 20} {
			key := fmt.Sprint("key", i)
			body := writeBody(t, s, key, data[:size])
			assert.EqualValues(t, size, body.Size)
			require.True(t, fillWith(t, s, key, 1, cache.Entry{Kind: cache.Value, Data: data[:size], Body: body, TTL: time.Minute}))
			e, ok, err := s.Get(t.Context(), key)
			require.NoError(t, err)
			require.True(t, ok)
			assert.True(t, bytes.Equal(data[:size], e.Data), size)
			assert.Equal(t, body, e.Body)
			got, err := readBody(s, key, e.Body)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(data[:size], got), size)
			_, err = readBody(s, key+"x", e.Body)
			if size > 0 {
				assert.Error(t, err, "a body of another key")
			}
		}
		many, err := s.GetMany(t.Context(), []string{"key6", "none", "key3"})
		require.NoError(t, err)
		assert.Len(t, many[0].Data, 5<<20)
		assert.Len(t, many[2].Data, 256<<10+1)
		for _, e := range many {
			assert.False(t, e.Damaged)
		}
	})
}

// TestDamagedChunks breaks each chunk in each way. Nobody may ever get other
// bytes than were stored.
func TestDamagedChunks(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	const chunk = 1 << 10
	data := noise(5*chunk + 100)
	damage := map[string]func(t *testing.T, keys []string, i int){
		"missing": func(t *testing.T, keys []string, i int) { require.NoError(t, rdb.Del(t.Context(), keys[i]).Err()) },
		"flipped": func(t *testing.T, keys []string, i int) {
			b, err := rdb.Get(t.Context(), keys[i]).Bytes()
			require.NoError(t, err)
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			require.NoError(t, rdb.Set(t.Context(), keys[i], b, time.Minute).Err())
		},
		"swapped": func(t *testing.T, keys []string, i int) {
			next := keys[(i+1)%len(keys)]
			require.NoError(t, rdb.Rename(t.Context(), keys[i], "spare"+keys[i]).Err())
			require.NoError(t, rdb.Rename(t.Context(), next, keys[i]).Err())
			require.NoError(t, rdb.Rename(t.Context(), "spare"+keys[i], next).Err())
		},
		"cut": func(t *testing.T, keys []string, i int) {
			b, err := rdb.Get(t.Context(), keys[i]).Bytes()
			require.NoError(t, err)
			require.NoError(t, rdb.Set(t.Context(), keys[i], b[:len(b)-1], time.Minute).Err())
		},
		"cut to the header": func(t *testing.T, keys []string, i int) {
			require.NoError(t, rdb.Do(t.Context(), "SET", keys[i], strings.Repeat("x", 28)).Err())
		},
		"of another type": func(t *testing.T, keys []string, i int) {
			require.NoError(t, rdb.Del(t.Context(), keys[i]).Err())
			require.NoError(t, rdb.RPush(t.Context(), keys[i], "x").Err())
		},
	}
	for name, damage := range damage {
		t.Run(name, func(t *testing.T) {
			for i := range 6 {
				options := &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: chunk}
				s := rediscache.New(rdb, options)
				body := writeBody(t, s, "body", data)
				var keys []string
				for n := range 6 {
					for _, k := range keysOf(t, rdb, options.Prefix) {
						if strings.HasSuffix(k, fmt.Sprint(":", n)) {
							keys = append(keys, k)
						}
					}
				}
				require.Len(t, keys, 6)
				damage(t, keys, i)
				got, err := readBody(s, "body", body)
				require.ErrorIs(t, err, cache.ErrNoBody)
				assert.True(t, bytes.HasPrefix(data, got), "chunk %d", i)
				for from := 0; from < len(data); from += chunk {
					got, _ := readBodyFrom(s, "body", body, int64(from))
					assert.True(t, bytes.HasPrefix(data[from:], got), "chunk %d, from %d", i, from)
				}

				require.True(t, fill(t, s, "data", 1, string(data)))
				entry := ""
				for _, k := range keysOf(t, rdb, options.Prefix) {
					if strings.HasSuffix(k, "}") && rdb.StrLen(t.Context(), k).Val() > 100 {
						entry = k
					}
				}
				var chunks []string
				for n := range 6 {
					for _, k := range keysOf(t, rdb, entry) {
						if strings.HasSuffix(k, fmt.Sprint(":", n)) {
							chunks = append(chunks, k)
						}
					}
				}
				require.Len(t, chunks, 6)
				damage(t, chunks, i)
				e, ok, err := s.Get(t.Context(), "data")
				require.NoError(t, err)
				assert.False(t, ok)
				assert.True(t, e.Damaged)
				require.True(t, fill(t, s, "data", 2, "new"), "damage must not be in the way of the next fill")
			}
		})
	}
}

// Chunks live as long as their entry, and a minute more for who is reading.
func TestChunksLiveAsLongAsTheirEntry(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: 1 << 10}
	s := rediscache.New(rdb, options)
	data := noise(3000)
	body := writeBody(t, s, "key", data)
	chunks := func() (left []time.Duration) {
		for _, k := range keysOf(t, rdb, options.Prefix) {
			if i := strings.LastIndex(k, "}:"); i >= 0 && strings.Count(k[i:], ":") == 2 {
				left = append(left, rdb.PTTL(t.Context(), k).Val())
			}
		}
		return left
	}
	all := func(want time.Duration, n int) {
		t.Helper()
		left := chunks()
		assert.Len(t, left, n)
		for _, l := range left {
			assert.InDelta(t, want.Seconds(), l.Seconds(), 5)
		}
	}
	all(time.Hour+time.Minute, 3)
	long := cache.Entry{Kind: cache.Value, Data: data, Body: body, TTL: 2 * time.Hour, StaleFor: time.Hour}
	require.True(t, fillWith(t, s, "key", 1, long))
	all(3*time.Hour+time.Minute, 6)

	// Replaced by an entry with the same body: only the data is given up.
	e, _, err := s.Get(t.Context(), "key")
	require.NoError(t, err)
	b, err := s.Begin(t.Context(), "key", cache.Filling{Token: 2, TTL: time.Minute, Seen: e.Version})
	require.NoError(t, err)
	require.Equal(t, cache.Begun, b.Outcome)
	stored, err := s.Fill(t.Context(), "key", b.Ticket, cache.Entry{Kind: cache.Value, Body: body, TTL: 2 * time.Hour, StaleFor: time.Hour})
	require.NoError(t, err)
	require.True(t, stored)
	var long3, short3 int
	for _, l := range chunks() {
		if l > time.Hour {
			long3++
		} else {
			short3++
		}
	}
	assert.Equal(t, []int{3, 3}, []int{long3, short3})

	// Purged while somebody reads.
	r, err := s.OpenBody(t.Context(), "key", body)
	require.NoError(t, err)
	purge(t, s, cache.Purge{Keys: []string{"key"}})
	all(time.Minute, 6)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))

	// Refused: what was written for it is given up.
	late := begin(t, s, "key", 10)
	purge(t, s, cache.Purge{Keys: []string{"key"}})
	stored, err = s.Fill(t.Context(), "key", late, long)
	require.NoError(t, err)
	require.False(t, stored)
	all(time.Minute, 9)

	// Replaced by a write.
	require.True(t, fillWith(t, s, "key", 11, long))
	w, err := s.BeginWrite(t.Context(), "key", time.Minute)
	require.NoError(t, err)
	_, err = s.Write(t.Context(), "key", w, cache.Entry{Kind: cache.Value, TTL: time.Hour})
	require.NoError(t, err)
	all(time.Minute, 12)
}

func TestAnEntryWithoutItsBodyIsNotStored(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: 1 << 10}
	s := rediscache.New(rdb, options)
	body := writeBody(t, s, "key", noise(3000))
	for _, k := range keysOf(t, rdb, options.Prefix) {
		if strings.HasSuffix(k, ":1") {
			require.NoError(t, rdb.Del(t.Context(), k).Err())
		}
	}
	assert.False(t, fillWith(t, s, "key", 1, cache.Entry{Kind: cache.Value, Body: body, TTL: time.Hour}))
	_, err := s.Fill(t.Context(), "key", begin(t, s, "key", 2), cache.Entry{Kind: cache.Value, Body: cache.Body{ID: "foreign"}, TTL: time.Hour})
	require.Error(t, err)
}

func TestAnAbortedBodyIsRemoved(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: 1 << 10}
	s := rediscache.New(rdb, options)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.CreateBody(ctx, "key", time.Hour)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 3<<20))
	require.NoError(t, err)
	require.NotEmpty(t, keysOf(t, rdb, options.Prefix))
	cancel()
	_, err = w.Finish()
	require.ErrorIs(t, err, context.Canceled)
	w.Abort()
	w.Abort()
	assert.Empty(t, keysOf(t, rdb, options.Prefix))
	_, err = w.Write([]byte("x"))
	assert.Error(t, err)
}

// A 100 MB body goes in and out with a few chunks in memory.
func TestABodyStreams(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	s := rediscache.New(rdb, nil)
	const size = 100 << 20
	source := func() io.Reader {
		return io.LimitReader(rand.NewChaCha8([32]byte{2}), size)
	}
	want := sha256.New()
	_, err := io.Copy(want, source())
	require.NoError(t, err)

	peak := watchHeap(t)
	w, err := s.CreateBody(t.Context(), "key", time.Hour)
	require.NoError(t, err)
	_, err = io.Copy(struct{ io.Writer }{w}, source())
	require.NoError(t, err)
	body, err := w.Finish()
	require.NoError(t, err)
	assert.Less(t, peak(), int64(16<<20), "writing")
	require.EqualValues(t, size, body.Size)
	require.True(t, fillWith(t, s, "key", 1, cache.Entry{Kind: cache.Value, Body: body, TTL: time.Minute}))

	peak = watchHeap(t)
	r, err := s.OpenBody(t.Context(), "key", body)
	require.NoError(t, err)
	got := sha256.New()
	_, err = io.Copy(got, r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	_, err = r.Read(make([]byte, 1))
	require.Error(t, err, "closed")
	require.False(t, errors.Is(err, io.EOF))
	assert.Less(t, peak(), int64(16<<20), "reading")
	assert.Equal(t, want.Sum(nil), got.Sum(nil))
}

// A value of 100 MB goes from its source into Redis, and from there to a caller, in
// little memory, and no key holds more than a chunk.
func TestABlobStreams(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	s := rediscache.New(rdb, nil)
	engine, err := cache.New(s, &cache.Options{StoreTimeout: 10 * time.Second})
	require.NoError(t, err)
	files, err := cache.NewBlobs(engine, "file", cache.Policy{TTL: time.Hour, LoadTimeout: 5 * time.Minute, WaitTimeout: 5 * time.Minute})
	require.NoError(t, err)
	const size = 100 << 20
	source := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{3}), size) }
	want := sha256.New()
	_, err = io.Copy(want, source())
	require.NoError(t, err)
	var loads atomic.Int32
	load := func(_ context.Context, _ string, w io.Writer) error {
		loads.Add(1)
		_, err := io.Copy(w, source())
		return err
	}
	for _, how := range []string{"loaded and read", "read"} {
		peak := watchHeap(t)
		blob, err := files.Get(t.Context(), "1", load)
		require.NoError(t, err)
		assert.EqualValues(t, size, blob.Size)
		got := sha256.New()
		_, err = io.Copy(got, blob)
		require.NoError(t, err)
		require.NoError(t, blob.Close())
		assert.Less(t, peak(), int64(16<<20), how)
		assert.Equal(t, want.Sum(nil), got.Sum(nil), how)
	}
	assert.EqualValues(t, 1, loads.Load())

	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	chunks, longest := 0, int64(0)
	for _, key := range keys {
		if kind, err := rdb.Type(t.Context(), key).Result(); err == nil && kind == "string" {
			n, err := rdb.StrLen(t.Context(), key).Result()
			require.NoError(t, err)
			chunks, longest = chunks+1, max(longest, n)
		}
	}
	assert.Greater(t, chunks, 400)
	assert.LessOrEqual(t, longest, int64(256<<10+64), "a chunk and its header")
}

// watchHeap returns a function that says by how much the heap has grown at most.
func watchHeap(t *testing.T) (peak func() int64) {
	t.Helper()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	before := heap()
	var most atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most.Store(max(most.Load(), heap()))
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		t.Logf("the heap has grown by %d KiB", (most.Load()-before)>>10)
		return most.Load() - before
	}
}

func TestCompression(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	text := strings.Repeat("compressible ", 1000)
	for name, test := range map[string]struct {
		above  int
		data   string
		atMost int64
		least  int64
	}{
		"text":         {0, text, 1000, 0},
		"short":        {0, text[:1024], 2000, 1024},
		"a bound":      {100, text[:1024], 500, 0},
		"never":        {-1, text, 20_000, 13_000},
		"not smaller":  {0, string(noise(5000)), 6000, 5000},
		"nothing at 1": {1, "", 500, 0},
	} {
		t.Run(name, func(t *testing.T) {
			options := &rediscache.Options{Prefix: redistest.Prefix(t), CompressAbove: test.above, TierBytes: -1}
			s := rediscache.New(rdb, options)
			require.True(t, fill(t, s, "key", 1, test.data))
			assert.Equal(t, test.data, get(t, s, "key"))
			size := rdb.StrLen(t.Context(), entryKey(t, rdb, options.Prefix)).Val()
			assert.LessOrEqual(t, size, test.atMost)
			assert.GreaterOrEqual(t, size, test.least)
		})
	}
}

// While Redis hangs nobody waits longer for a body than for anything else.
func TestABodyIsNotWaitedForWhileRedisHangs(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprint("ContextTimeoutEnabled=", obeys), func(t *testing.T) {
			server := redistest.NewStandalone(t)
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: obeys})
			t.Cleanup(func() { _ = rdb.Close() })
			s := rediscache.New(rdb, nil)
			e, err := cache.New(s, &cache.Options{StoreTimeout: 200 * time.Millisecond})
			require.NoError(t, err)
			body := writeBody(t, s, "key", noise(600_000))
			r, err := e.OpenBody(t.Context(), "key", body)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			w, err := e.CreateBody(t.Context(), "key", time.Hour)
			require.NoError(t, err)

			server.Stop(t)
			defer server.Continue(t)
			began := time.Now()
			_, err = e.OpenBody(t.Context(), "key", body)
			require.Error(t, err)
			assert.Less(t, time.Since(began), 200*time.Millisecond+slack)
			if obeys { // what is written belongs to the client until it is done with it
				began = time.Now()
				_, err = w.Write(noise(2 << 20))
				require.Error(t, err)
				assert.Less(t, time.Since(began), time.Second+slack)
			}
		})
	}
}
