package traffic_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/stretchr/testify/assert"
)

// skewed is a Store whose clock is another one than that of the server.
type skewed struct {
	traffic.Store
	by   time.Duration
	away atomic.Bool

	counted map[int64]uint64 // requests by minute
}

func (s *skewed) Salt(ctx context.Context, day int64) ([]byte, time.Time, error) {
	if s.away.Load() {
		return nil, time.Time{}, errAway
	}
	salt, now, err := s.Store.Salt(ctx, day)
	return salt, now.Add(s.by), err
}

func (s *skewed) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	if s.away.Load() {
		return traffic.Receipt{}, errAway
	}
	for _, sl := range b.Slices {
		for i := range sl.Rows {
			if sl.Rows[i].Kind == traffic.KindNode {
				s.counted[sl.Minute] += sl.Rows[i].Requests()
			}
		}
	}
	r, err := s.Store.Apply(ctx, b)
	r.Now = r.Now.Add(s.by)
	return r, err
}

// TestAServerThatBeginsWithoutTheStore: whatever its own clock says, what it counts before
// it has heard of the store's is in the minute of the store.
func TestAServerThatBeginsWithoutTheStore(t *testing.T) {
	for _, by := range []time.Duration{0, -45 * time.Minute, 45 * time.Minute, 20 * 365 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			until("12:00:30")
			store := &skewed{Store: traffic.NewMemoryStore(), by: by, counted: map[int64]uint64{}}
			store.away.Store(true)
			r := newRecorder(t, store, &traffic.Options{Interval: time.Second})
			want := map[int64]uint64{}
			for i := range 5 {
				for range i + 1 {
					r.Record(traffic.Hit{Status: 200})
				}
				want[traffic.BucketOf(traffic.UnitMinute, time.Now().Add(by)).N] = uint64(i + 1)
				time.Sleep(time.Minute)
				if i == 2 {
					store.away.Store(false)
				}
			}
			assert.NoError(t, r.Close(t.Context()))
			assert.Equal(t, want, store.counted, "%v", by)
		})
	}
}
