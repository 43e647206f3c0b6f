package redislock

import (
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed acquire.lua
	acquireSource string
	//go:embed extend.lua
	extendSource string
	//go:embed give.lua
	giveSource string
	//go:embed relay.lua
	relaySource string
	//go:embed release.lua
	releaseSource string
	//go:embed wake.lua
	wakeSource string

	acquireScript = redis.NewScript(wakeSource + acquireSource)
	extendScript  = redis.NewScript(extendSource)
	relayScript   = redis.NewScript(wakeSource + giveSource + function("release", releaseSource) + function("acquire", acquireSource) + relaySource)
	releaseScript = redis.NewScript(wakeSource + giveSource + releaseSource)
)

// function makes a script a function in another one.
func function(name, source string) string {
	return "local function " + name + "(KEYS, ARGV)\n" + source + "\nend\n"
}

// fenceTTL is for how long the last token is remembered after the lease's TTL.
// After that the server's clock alone makes tokens grow, and it must not have
// been set back by more than this.
const fenceTTL = 24 * time.Hour

// lateness is for how long after a release a command of the same owner may still
// arrive, and be known: one that a client sends again, or that was held up on its
// way. It is longer than go-redis tries by default.
const lateness = 30 * time.Second

// The same as arguments. What is made once costs no step an allocation.
var (
	fenceArg    any = fenceTTL.Milliseconds()
	latenessArg any = lateness.Milliseconds()
	kinds           = exclusiveKinds()
)

// Whom release.lua wakes.
const (
	wakeTurn = "turn"
	wakeAll  = "all"
	wakeNone = "none"
)

func acquireArgs(req lock.Request) []any {
	ttl := milliseconds(req.TTL)
	return []any{req.Owner, kind(req), ttl, ttl + fenceTTL.Milliseconds(), max(req.Tokens, 1), milliseconds(req.Place)}
}

func extendArgs(req lock.Request, raise uint64) []any {
	ttl := milliseconds(req.TTL)
	return []any{req.Owner, kind(req), ttl, ttl + fenceTTL.Milliseconds(), raise}
}

func releaseArgs(req lock.Request, wake string) []any {
	unused := req.Unused
	if wake != wakeTurn {
		unused = 0 // the fences of a quorum were raised to the whole block
	}
	return []any{req.Owner, kind(req), latenessArg, unused, wake, fenceArg}
}

func relayArgs(from, to lock.Request) []any {
	return append(releaseArgs(from, wakeTurn), acquireArgs(to)...)
}

// acquired is an answer of acquire.lua.
type acquired struct {
	granted bool
	token   uint64
	heldFor time.Duration
	holder  string // who has it, if that is one
	kept    int64  // until when the asker has a place, in ms of the server's clock
}

// errReleased is acquire.lua's answer to an owner that has released already.
var errReleased = errors.New("the owner has released the lease already: an owner is for one lease only")

// parse takes a reply of acquire.lua apart.
func parse(reply any) (acquired, error) {
	values, _ := reply.([]any)
	var status, value int64
	ok := len(values) >= 2
	if ok {
		status, ok = values[0].(int64)
	}
	if ok {
		value, ok = values[1].(int64)
	}
	switch {
	case !ok:
		return acquired{}, fmt.Errorf("the script answered %v", reply)
	case status < 0:
		return acquired{}, errReleased
	case status == 1:
		return acquired{granted: true, token: uint64(value)}, nil
	}
	a := acquired{heldFor: time.Duration(value) * time.Millisecond}
	if len(values) > 2 {
		a.holder, _ = values[2].(string)
	}
	if len(values) > 3 {
		a.kept, _ = values[3].(int64)
	}
	return a, nil
}

func (a acquired) grant(req lock.Request) lock.Grant {
	return lock.Grant{Acquired: a.granted, Token: a.token, HeldFor: a.heldFor, Queued: !a.granted && req.Place > 0}
}

// kind is what the scripts call the kind of a lease. It is the same in all requests of
// an owner.
func kind(req lock.Request) any {
	if req.Shared {
		return "s" + strconv.Itoa(req.Limit)
	}
	tokens := 0
	if req.Give {
		tokens = max(req.Tokens, 1) + req.Unused
	}
	if tokens < len(kinds) {
		return kinds[tokens]
	}
	return "x" + strconv.Itoa(tokens)
}

// exclusiveKinds are the kinds of the exclusive leases for which few tokens are asked,
// by how many that is.
func exclusiveKinds() (kinds [65]any) {
	for tokens := range kinds {
		kinds[tokens] = "x" + strconv.Itoa(tokens)
	}
	return kinds
}

// milliseconds returns d rounded up.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
