package redisconn

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A host that is gone swallows what is sent to it: go-redis's own deadline for a dial is the
// end then. That is the server's silence, and not somebody who has given up.
func TestAServerThatSwallowsPacketsIsAway(t *testing.T) {
	dialled := 0
	d := newDialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialled++
		<-ctx.Done()
		return nil, ctx.Err()
	}, defaultTimeout)
	for range failuresToWait + 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := d.Dial(ctx, "tcp", "192.0.2.1:6379")
		cancel()
		require.NoError(t, err, "go-redis is not told, which counts")
	}
	assert.Equal(t, failuresToWait, dialled)

	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("nobody wants it any more"))
	_, err := d.Dial(gone, "tcp", "192.0.2.2:6379")
	assert.ErrorIs(t, err, context.Canceled)
}
