package redislock

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/herdless/herdless/lock"
)

const (
	// maxPlain is the longest name that is part of a key as it is, in bytes.
	maxPlain = 512
	// digestMark begins what stands for any other name.
	digestMark = "sha256:"
)

// keys is the key of a lease. Every other key of the lease is the same with a
// suffix, and so in the same slot: a Cluster hashes what is between the first {
// and the first } after it.
type keys string

func keysOf(prefix, name string) keys { return keys(prefix + "{" + tag(name) + "}") }

// of returns the keys of a step of req that stand in KEYS. While a Cluster moves a slot,
// the keys of a lease can be on two servers. Then it refuses a step that names a key on
// the other one, but a script that reads such a key finds nothing there: a shared lease
// would seem to be lost.
func (k keys) of(req lock.Request) []string {
	if req.Shared {
		return []string{string(k), string(k) + ":shared"}
	}
	return []string{string(k)}
}

// channel returns the Pub/Sub channel on which owner is woken. wake.lua has the same.
func (k keys) channel(owner string) string {
	if process, _, ok := strings.Cut(owner, "."); ok {
		return string(k) + ":turn:" + process
	}
	return string(k) + ":turn"
}

// tag returns name as it can stand in a key, differently for every name. A name
// with braces would end the hash tag early or, like the empty name, be none at
// all, and the keys of one lease would be in different slots. Its digest stands
// for it then. A name that looks like such a digest is digested too.
func tag(name string) string {
	if name != "" && len(name) <= maxPlain && !strings.ContainsAny(name, "{}") && !strings.HasPrefix(name, digestMark) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return digestMark + hex.EncodeToString(sum[:])
}
