package redisconn

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/herdless/herdless/internal/nils"
	"github.com/redis/go-redis/v9"
)

// The scripts of herdless need what Redis 6.2 has.
const minMajor, minMinor = 6, 2

// Check says whether herdless can work with the Redis behind client: it answers
// and its version is at least 6.2. Of a Cluster every primary is asked. It is
// for programs that want to fail at their start instead of at the first request.
//
// A user that may not call INFO passes, whatever the version.
func Check(ctx context.Context, client redis.UniversalClient) error {
	if nils.Is(client) {
		return errors.New("redisconn: Check needs a client, and got nil: did Open fail?")
	}
	if c, ok := client.(*redis.ClusterClient); ok {
		return c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			return check(ctx, node)
		})
	}
	return check(ctx, client)
}

func check(ctx context.Context, client redis.Cmdable) error {
	if err := client.Ping(ctx).Err(); err != nil {
		return explain(ctx, err)
	}
	info, err := client.Info(ctx, "server").Result()
	switch {
	case redis.HasErrorPrefix(err, "NOPERM"):
		return nil
	case err != nil:
		return explain(ctx, err)
	}
	version := infoField(info, "redis_version")
	if !atLeast(version, minMajor, minMinor) {
		return fmt.Errorf("redisconn: the version of Redis is %q, but herdless needs %d.%d or newer", version, minMajor, minMinor)
	}
	return nil
}

func explain(ctx context.Context, err error) error {
	switch {
	case redis.HasErrorPrefix(err, "NOAUTH"):
		return fmt.Errorf("redisconn: Redis wants a password, and the URL has none: %w", err)
	case redis.HasErrorPrefix(err, "WRONGPASS"):
		return fmt.Errorf("redisconn: Redis does not accept the user and password of the URL: %w", err)
	default:
		// go-redis may say "i/o timeout" where the context has ended.
		return fmt.Errorf("redisconn: Redis does not answer: is it running, and does the URL point at it? %w",
			errors.Join(err, ctx.Err()))
	}
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func atLeast(version string, major, minor int) bool {
	a, rest, _ := strings.Cut(version, ".")
	b, _, _ := strings.Cut(rest, ".")
	m, err1 := strconv.Atoi(a)
	n, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil {
		return false
	}
	return m > major || m == major && n >= minor
}
