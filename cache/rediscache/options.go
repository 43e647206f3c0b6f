package rediscache

import (
	"fmt"
	"time"
)

// Options are the options of a Store. Processes that share a prefix should have
// the same, but need not.
type Options struct {
	// Prefix begins every key and channel. Two applications on one Redis need
	// two prefixes, or they share what they name alike. It must not contain
	// braces, which Redis Cluster reads as a hash tag. Two databases of one
	// Redis need two prefixes only if New's client does not say which one it
	// uses: neither redis.NewFailoverClusterClient's does, nor a type of your own
	// that does not embed a *redis.Client. Default "herdless:cache:".
	Prefix string

	// TierBytes bounds the entries that are kept in this process as well, in
	// bytes. An entry of more than a sixteenth of it is not. Decoded values that
	// are kept along with their entries come on top. Zero means 32 MiB,
	// a negative number that none is.
	TierBytes int64

	// Staleness is for how long at most after a purge or a write this process
	// can still return from its own memory what was before, and not know of a
	// purge by a tag or a prefix, if it is cut off from the messages that tell
	// of them. Otherwise it takes milliseconds. While entries are read, the
	// process asks Redis about twice in that time. Zero means a second; less
	// than 50 ms is refused.
	Staleness time.Duration

	// Retention is for how long it is remembered which tags and prefixes were
	// purged. Entries that are older than the oldest purge remembered are
	// gone, so it should be no shorter than entries live. Zero means 7 days;
	// less than a minute is refused.
	Retention time.Duration

	// CompressAbove is the number of bytes above which data is compressed with
	// zstd, if that makes it smaller. Bodies are not. Zero means 1 KiB, a
	// negative number that nothing is.
	CompressAbove int

	// ChunkBytes is how many bytes of a value go into one key of Redis. What is
	// longer is split. Zero means 256 KiB; less than 1 KiB or more than 64 MiB
	// is refused.
	ChunkBytes int

	// NoPipelining sends each command by itself. By default the commands of more
	// than four callers at a time go together, in a pipeline, which costs a busy
	// Redis and the process a fraction; a hook or a trace of go-redis sees the
	// pipeline. What is bigger than 16 KiB goes by itself in any case. It needs a
	// *redis.Client or a *redis.ClusterClient.
	NoPipelining bool
}

const (
	defaultPrefix        = "herdless:cache:"
	defaultTierBytes     = 32 << 20
	defaultStaleness     = time.Second
	minStaleness         = 50 * time.Millisecond
	defaultRetention     = 7 * 24 * time.Hour
	minRetention         = time.Minute
	defaultCompressAbove = 1 << 10
	defaultChunkBytes    = 256 << 10
	minChunkBytes        = 1 << 10
	maxChunkBytes        = 64 << 20
)

// withDefaults returns the options with defaults for what is zero. It panics if
// they are invalid.
func (o Options) withDefaults() Options {
	byDefault(&o.TierBytes, defaultTierBytes)
	byDefault(&o.Staleness, defaultStaleness)
	byDefault(&o.Retention, defaultRetention)
	byDefault(&o.CompressAbove, defaultCompressAbove)
	byDefault(&o.ChunkBytes, defaultChunkBytes)
	switch {
	case o.Staleness < minStaleness:
		panic(fmt.Sprintf("rediscache: Options.Staleness is %v, it must not be less than %v", o.Staleness, minStaleness))
	case o.Retention < minRetention:
		panic(fmt.Sprintf("rediscache: Options.Retention is %v, it must not be less than %v", o.Retention, minRetention))
	case o.ChunkBytes < minChunkBytes || o.ChunkBytes > maxChunkBytes:
		panic(fmt.Sprintf("rediscache: Options.ChunkBytes is %d, it must be from %d to %d", o.ChunkBytes, minChunkBytes, maxChunkBytes))
	}
	return o
}

func byDefault[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}
