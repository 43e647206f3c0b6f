package cache_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func blobs(t testing.TB, e *cache.Engine, p cache.Policy) *cache.Blobs {
	t.Helper()
	b, err := cache.NewBlobs(e, "file", p)
	require.NoError(t, err)
	return b
}

func readBlob(ctx context.Context, b *cache.Blobs, key string, load cache.BlobLoader) (string, error) {
	blob, err := b.Get(ctx, key, load)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	return string(data), err
}

func TestBlobsAreLoadedOnceInTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 3, newMemoryStore(t), cache.Options{})
		want := strings.Repeat("0123456789", 30_000)
		var loads atomic.Int32
		load := func(_ context.Context, _ string, w io.Writer) error {
			loads.Add(1)
			for rest := want; len(rest) > 0; {
				n, err := io.WriteString(w, rest[:min(len(rest), 64<<10)])
				if err != nil {
					return err
				}
				rest = rest[n:]
				time.Sleep(time.Millisecond)
			}
			return nil
		}
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				got, err := readBlob(t.Context(), blobs(t, engines[i%3], cache.Policy{TTL: time.Minute}), "1", load)
				assert.NoError(t, err)
				assert.True(t, got == want)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, loads.Load())
	})
}

func TestABlobThatFailsHalfWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := blobs(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute, Backoff: time.Millisecond})
		_, err := readBlob(t.Context(), b, "1", func(_ context.Context, _ string, w io.Writer) error {
			_, _ = io.WriteString(w, "half")
			return errSource
		})
		require.ErrorIs(t, err, errSource)
		time.Sleep(time.Second)
		got, err := readBlob(t.Context(), b, "1", func(_ context.Context, _ string, w io.Writer) error {
			_, err := io.WriteString(w, "whole")
			return err
		})
		require.NoError(t, err)
		assert.Equal(t, "whole", got)
		require.NoError(t, b.Delete(t.Context(), "1"))
		_, err = readBlob(t.Context(), b, "1", func(context.Context, string, io.Writer) error {
			return fmt.Errorf("no file: %w", cache.ErrNotFound)
		})
		require.ErrorIs(t, err, cache.ErrNotFound)
	})
}

func TestBlobsWithoutTheStore(t *testing.T) {
	b := blobs(t, newEngines(t, 1, bodiless{brokenStore{}}, cache.Options{})[0], cache.Policy{TTL: time.Minute})
	for range 5 {
		got, err := readBlob(t.Context(), b, "1", func(_ context.Context, _ string, w io.Writer) error {
			_, err := io.WriteString(w, "whole")
			return err
		})
		require.NoError(t, err)
		assert.Equal(t, "whole", got)
	}
	_, err := readBlob(t.Context(), b, "1", func(_ context.Context, _ string, w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return errSource
	})
	require.ErrorIs(t, err, errSource)
	_, err = cache.NewBlobs(newEngines(t, 1, brokenStore{}, cache.Options{})[0], "file", cache.Policy{TTL: time.Minute})
	require.ErrorContains(t, err, "BodyStore")
}

// bodiless is a store that could hold bodies if it were there.
type bodiless struct{ brokenStore }

func (bodiless) CreateBody(context.Context, string, time.Duration) (cache.BodyWriter, error) {
	return nil, errAway
}

func (bodiless) OpenBody(context.Context, string, cache.Body) (io.ReadCloser, error) {
	return nil, errAway
}
