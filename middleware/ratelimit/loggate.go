package ratelimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logInterval is the least time between two lines of one logGate.
const logInterval = 10 * time.Second

// logGate logs what may happen with every request: the first time at once, then
// at most one line per logInterval, which says how many there were. The zero
// value logs to slog.Default().
type logGate struct {
	logger *slog.Logger

	mu     sync.Mutex
	last   time.Time
	silent int
}

func (g *logGate) log(ctx context.Context, msg string, args ...any) {
	g.mu.Lock()
	if !g.last.IsZero() && time.Since(g.last) < logInterval {
		g.silent++
		g.mu.Unlock()
		return
	}
	silent := g.silent
	g.last, g.silent = time.Now(), 0
	g.mu.Unlock()

	logger := g.logger
	if logger == nil {
		logger = slog.Default()
	}
	logger.ErrorContext(ctx, msg, append(args, "more_since_last_line", silent)...)
}
