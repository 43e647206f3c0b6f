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
	//go:embed drop.lua
	dropSource string
	//go:embed extend.lua
	extendSource string
	//go:embed give.lua
	giveSource string
	//go:embed head.lua
	headSource string
	//go:embed pass.lua
	passSource string
	//go:embed relay.lua
	relaySource string
	//go:embed release.lua
	releaseSource string
	//go:embed state.lua
	stateSource string
	//go:embed take.lua
	takeSource string
	//go:embed wake.lua
	wakeSource string

	head          = fmt.Sprintf("local lateness, fencing, spare = %d, %d, %d\n", lateness.Milliseconds(), fenceTTL.Milliseconds(), fenceSpare.Milliseconds()) + headSource
	acquireScript = redis.NewScript(head + takeSource + stateSource + wakeSource + acquireSource)
	extendScript  = redis.NewScript(head + stateSource + extendSource)
	relayScript   = redis.NewScript(head + stateSource + wakeSource + giveSource + function("release", releaseSource) + function("acquire", acquireSource) + relaySource)
	releaseScript = redis.NewScript(head + dropSource + passSource + stateSource + wakeSource + giveSource + releaseSource)
)

// function makes a script a function in another one.
func function(name, source string) string {
	return "local function " + name + "(ARGV)\n" + source + "\nend\n"
}

// fenceTTL is for how long the last token is remembered after the lease, at least.
// After that the server's clock alone makes tokens grow, and it must not have
// been set back by more than this.
const fenceTTL = 24 * time.Hour

// fenceSpare is how much longer it is remembered, so that that need not be set anew each
// time.
const fenceSpare = time.Hour

// lateness is for how long after a release a command of the same owner may still
// arrive, and be known: one that a client sends again, or that was held up on its
// way. It is longer than go-redis tries by default.
const lateness = 30 * time.Second

// What is an argument often is made once, and costs no step an allocation.
var (
	kinds = exclusiveKinds()
	chars = lastChars()
)

// Whom release.lua wakes.
const (
	wakeTurn = "turn"
	wakeAll  = "all"
	wakeNone = "none"
)

// maxArgs is how many arguments a script takes at most. Those of a step are appended to
// room, which its caller has: so that room needs no memory.
const maxArgs = 10

func acquireArgs(room []any, req lock.Request) []any {
	family, char := split(req.Owner)
	args := append(room, family, char, kind(req), milliseconds(req.TTL))
	if req.Tokens > 1 || req.Place > 0 {
		args = append(args, max(req.Tokens, 1), milliseconds(req.Place))
	}
	return args
}

func extendArgs(room []any, req lock.Request, raise uint64) []any {
	family, char := split(req.Owner)
	return append(room, family, char, kind(req), milliseconds(req.TTL), raise)
}

func releaseArgs(room []any, req lock.Request, wake string) []any {
	family, char := split(req.Owner)
	args := append(room, family, char, kind(req))
	switch {
	case wake != wakeTurn:
		args = append(args, 0, wake) // the fences of a quorum were raised to the whole block
	case req.Unused > 0:
		args = append(args, req.Unused)
	}
	return args
}

func relayArgs(room []any, from, to lock.Request) []any {
	family, char := split(from.Owner)
	next, last := split(to.Owner)
	return append(room,
		family, char, kind(from), from.Unused,
		next, last, kind(to), milliseconds(to.TTL), max(to.Tokens, 1), milliseconds(to.Place),
	)
}

// split takes an owner apart as head.lua says: its family, and what it is in that.
// state.lua does the same.
func split(owner string) (family string, char any) {
	last := len(owner) - 1
	if last < 0 || chars[owner[last]] == nil {
		return owner, "*"
	}
	return owner[:last], chars[owner[last]]
}

// lastChars are the letters and digits.
func lastChars() (chars [256]any) {
	for c := range len(chars) {
		if '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' {
			chars[c] = string(rune(c))
		}
	}
	return chars
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
	switch r := reply.(type) {
	case int64:
		if r < 0 {
			return acquired{}, errReleased
		}
		return acquired{granted: true, token: uint64(r)}, nil
	case []any:
		if len(r) == 3 {
			wait, ok1 := r[0].(int64)
			holder, ok2 := r[1].(string)
			kept, ok3 := r[2].(int64)
			if ok1 && ok2 && ok3 {
				return acquired{heldFor: time.Duration(wait) * time.Millisecond, holder: holder, kept: kept}, nil
			}
		}
	}
	return acquired{}, fmt.Errorf("the script answered %v", reply)
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

// milliseconds returns d rounded up, also the longest there is.
func milliseconds(d time.Duration) int64 {
	n := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		n++
	}
	return n
}
