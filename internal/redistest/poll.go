package redistest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollInterval is short against everything that is waited for and long enough
// not to take the processor from the servers that are being waited for.
const pollInterval = 10 * time.Millisecond

// until calls check until it returns nil. After limit it gives up and returns
// the last error, which says what is still missing, under the name of what
// was waited for. The context that check gets ends with ctx and at the limit.
func until(ctx context.Context, limit time.Duration, what string, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		var final permanent
		if errors.As(err, &final) {
			return final.error
		}
		// An error that only says that time is up would hide the reason.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redistest: %s: gave up after %v: %w", what, limit, last)
		case <-tick.C:
		}
	}
}

// permanent wraps an error that waiting does not cure: until returns it at
// once, unwrapped.
type permanent struct{ error }
