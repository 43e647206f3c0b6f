package responsecache_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
)

// A reader that takes little at a time holds the handler up for a while only, and one
// that keeps pace is not given up.
func TestAReaderThatTakesLittleIsLeftBehind(t *testing.T) {
	for name, tt := range map[string]struct {
		pause  time.Duration // after each piece of 64 KiB
		behind bool
	}{
		"90 KiB in a second":  {700 * time.Millisecond, true},
		"300 KiB in a second": {200 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := responsecache.NewLive()
				r := l.Join()
				ended := make(chan error, 1)
				go func() {
					for {
						if _, err := r.Next(); err != nil {
							ended <- err
							return
						}
						time.Sleep(tt.pause)
					}
				}()
				began := time.Now()
				for range (24 << 20) / 1000 {
					l.Write(make([]byte, 1000))
				}
				took := time.Since(began)
				l.Finish()
				err := <-ended
				if tt.behind {
					assert.Less(t, took, 10*time.Second)
					assert.NotErrorIs(t, err, io.EOF)
				} else {
					assert.ErrorIs(t, err, io.EOF)
				}
			})
		})
	}
}
