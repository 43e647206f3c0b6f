package bench

import (
	"slices"

	"github.com/herdless/herdless/bench/internal/report"
)

// The cases that goals are about.
const (
	one  = "one at a time"
	many = "128 at a time"

	scsName     = "alexedwards/scs"
	redsyncName = "redsync"
	rateName    = "go-redis/redis_rate"
	rawGet      = "raw GET"
	plain       = "plain handler"

	endReads, endWrites, endPages = "session read", "session write", "page of 4 KiB from the cache"
)

// flat is by how much a cost may differ and still be called the same, on a
// machine that does other things.
const flat = 1.25

// obstacles are what stood in the way of goals that were missed, by scenario,
// when somebody last looked: at the tables, and at profiles (-cpuprofile, and
// -tagfocus=entrant=herdless). Shown only where a goal is missed.
var obstacles = map[string]string{
	"page-memory": "a hit looks at the request's fields and asks the clock, which the plain handler does not; that and to find the page is a third of its time. It writes five fields, in memory " +
		"of its own, as middleware may change them, and the plain handler two: that is two fifths, and the collector's work on top, which goes with the bytes.",
	"page-redis": "of a hit's eight allocations one at a time three are go-redis's look at the connection, and two the deadline. Two thirds of the bytes are the body, " +
		"which go-redis makes anew for each answer, and a quarter of the time the collector's.",
	"page-redis-512k": "Redis and the system copy the bytes three times, which is as much as half of what the best peer takes for all, and is the same for raw reads into memory that is used again; " +
		"the checksum is a tenth of the process's time.",
	"stampede": "1,500 clients are woken on two cores, which takes some 4 µs each, half of it to wake them; and two processes of three hear of the page by a message, " +
		"and read it from Redis first.",
	"session-read": "40 % of the bytes that a read allocates are what was read. Half of the process's time is go-redis's, the batch's and the collector's, a twentieth the token's HMAC. " +
		"More than half of Redis's time is the system's: to sleep, to be woken, and to copy.",
	"session-write":     "as for reads twice; in Redis the script takes as long as four reads: of that a fifth is to begin a script, half its five commands, and the rest Lua, which takes the head of the session apart.",
	"session-write-64k": "it takes as long as with a small session: what is left one at a time are two round trips, and threads that wait for them.",
	"limit-allowed":     "the script, also where one decides for many: half of its time in Redis is to store what is owed with its TTL.",
	"traffic":           "a quarter of the time is the clock, which is asked twice, and a seventh the board of paths.",
	"growth-processes": "Redis takes no longer for a request. A process of nine finds others' memory in the processors' caches, and the system, which takes half of the time with one process, takes three fifths with nine. " +
		"A bare GET costs 1.2 times as much with nine processes as with one.",
	"end-to-end": "a connection of net/http costs more than all else, for every library.",
	"lock":       "of Redis, six commands in two scripts take three times as long as redsync's three: tokens that outlast a failover, and what late commands must find.",
}

// explained puts the obstacles beside the goals.
func explained(goals []report.Goal) []report.Goal {
	out := slices.Clone(goals)
	for i, g := range out {
		if g.Why == "" {
			out[i].Why = obstacles[g.Scenario]
		}
	}
	return out
}

// goals are what was set before it was measured.
var goals = []report.Goal{
	ratio("page in the process", "≥ 1.0× the plain handler, 128 at a time", "page-memory", many, plain, 1),
	ratio("page in the process", "≥ 2.5× the best peer, 128 at a time", "page-memory", many, report.BestPeer, 2.5),
	atMost("page in the process", "≤ 2 allocations", "page-memory", one, "allocs", 2),
	ratio("page in the process", "≥ 1.0× the plain handler end to end", "end-to-end", endPages, plain, 1),
	ratio("page in the process", "≥ 1.0× nginx end to end (the stretch)", "end-to-end", endPages, nginxName, 1),

	atMost("page from Redis, 4 KiB", "1 round trip", "page-redis", one, "trips", 1),
	atMost("page from Redis, 4 KiB", "≤ 15 allocations", "page-redis", one, "allocs", 15),
	ratio("page from Redis, 4 KiB", "≥ 0.85× raw GET, one at a time", "page-redis", one, rawGet, 0.85),
	ratio("page from Redis, 4 KiB", "≥ 5× the best peer, 128 at a time", "page-redis", many, report.BestPeer, 5),
	ratio("page from Redis, 4 KiB", "≥ 2× raw GET, 128 at a time", "page-redis", many, rawGet, 2),
	ratio("page from Redis, 512 KiB", "≥ 2× the best peer, 128 at a time", "page-redis-512k", many, report.BestPeer, 2),
	atMost("page from Redis, 512 KiB", "small ones beside it ≤ 1.5 times as slow", "mixed", "4 at a time", "slowed", 1.5),

	atMost("session read", "1 round trip", "session-read", one, "trips", 1),
	atMost("session read", "≤ 15 allocations", "session-read", one, "allocs", 15),
	ratio("session read", "≥ 1.3× scs, one at a time", "session-read", one, scsName, 1.3),
	ratio("session read", "≥ 7× scs, 128 at a time", "session-read", many, scsName, 7),
	atMost("session read", "≤ 2 µs of Redis's CPU, 128 at a time", "session-read", many, "rediscpu", 2),
	ratio("session read", "≥ 2.2× scs end to end", "end-to-end", endReads, scsName, 2.2),

	atMost("session one-field write", "≤ 2 round trips", "session-write", one, "trips", 2),
	atMost("session one-field write", "≤ 400 bytes up", "session-write", one, "up", 400),
	atMost("session one-field write", "≤ 28 allocations", "session-write", one, "allocs", 28),
	ratio("session one-field write", "≥ 1.2× scs, one at a time", "session-write", one, scsName, 1.2),
	ratio("session one-field write", "≥ 6.5× scs, 128 at a time", "session-write", many, scsName, 6.5),
	ratio("session one-field write", "≥ 2.9× scs end to end", "end-to-end", endWrites, scsName, 2.9),
	ratio("session one-field write", "≥ 5× scs with a session of 64 KiB, one at a time", "session-write-64k", one, scsName, 5),
	ratio("session one-field write", "≥ 5× scs with a session of 64 KiB, 128 at a time", "session-write-64k", many, scsName, 5),

	atMost("rate-limit decision", "1 round trip", "limit-allowed", one, "trips", 1),
	ratio("rate-limit decision", "≥ 0.9× redis_rate, one at a time", "limit-allowed", one, rateName, 0.9),
	ratio("rate-limit decision", "≥ 2.5× redis_rate, 128 at a time", "limit-allowed", many, rateName, 2.5),
	atLeast("rate-limit decision", "denied key ≥ 2 M/s, 128 at a time", "limit-denied", many, "ops", 2_000_000),
	atMost("rate-limit decision", "denied key: no round trip", "limit-denied", one, "trips", 0),
	atLeast("rate-limit decision", "leased key ≥ 1 M/s, 128 at a time", "limit-leased", many, "ops", 1_000_000),

	ratio("lock and unlock, own keys", "≥ 1.0× redsync, one at a time", "lock", one, redsyncName, 1),
	ratio("lock and unlock, own keys", "≥ 4× redsync, 128 at a time", "lock", many, redsyncName, 4),
	atMost("lock hand-over", "p50 ≤ 0.5 ms", "lock-handover", handOverName, "p50", 0.5),
	atMost("lock hand-over", "≤ 2 commands an acquisition", "lock-handover", handOverName, "commands", 2),
	atMost("lock hand-over", "longest wait ≤ 100 ms", "lock-handover", handOverName, "max", 100),

	atMost("stampede, 3 × 500", "1 execution", "stampede", stampedeName, "executions", 1),
	atMost("stampede, 3 × 500", "≤ 60 Redis commands", "stampede", stampedeName, "commands", 60),
	atMost("stampede, 3 × 500", "p99 ≤ 5 ms after the execution", "stampede", stampedeName, "wake99", 5),
	atMost("burst at expiry, 3 × 200", "1 execution", "expiry", expiryName, "executions", 1),
	atMost("burst at expiry, 3 × 200", "p99 ≤ 5 ms", "expiry", expiryName, "p99", 5),
	atMost("burst at expiry, 3 × 200", "steady load p99 ≤ 2 ms", "expiry", steadyName, "p99", 2),

	atMost("traffic counting", "≤ 1 µs a request, with the handler", "traffic", one, "cpu", 1),
	atMost("traffic counting", "no allocation a request (≤ 0.05: one makes the writers of 32)", "traffic", one, "allocs", 0.05),

	grown("1 → 9 processes: a session read costs the same CPU (≤ 1.25×)", "growth-processes", "session-read: herdless"),
	grown("1 → 9 processes: a page from Redis costs the same CPU (≤ 1.25×)", "growth-processes", "page-redis: herdless"),
	grown("1 → 9 processes: a page in the process costs the same CPU (≤ 1.25×)", "growth-processes", "page-memory: herdless in process over Redis"),
	grown("more keys: a read costs the same CPU (≤ 1.25×)", "growth-keys", "4 at a time"),
	grown("longer bodies: a KiB costs no more CPU (≤ 1.25×)", "growth-bodies", "4 at a time"),
	grown("more purged tags: a page costs the same CPU (≤ 1.25×)", "growth-tags", "4 at a time"),
	grown("a purge of a tag of more values costs the same CPU (≤ 1.25×)", "growth-purge", one),
}

// ratio is a goal for the case's first row against another one.
func ratio(work, text, scenario, casename, versus string, bound float64) report.Goal {
	return report.Goal{Work: work, Text: text, Scenario: scenario, Case: casename, Versus: versus, Bound: bound}
}

// atLeast is a goal for a figure of the case's first row.
func atLeast(work, text, scenario, casename, metric string, bound float64) report.Goal {
	return report.Goal{Work: work, Text: text, Scenario: scenario, Case: casename, Metric: metric, Bound: bound}
}

// atMost is a goal for a figure that should be small.
func atMost(work, text, scenario, casename, metric string, bound float64) report.Goal {
	g := atLeast(work, text, scenario, casename, metric, bound)
	g.AtMost = true
	return g
}

// grown is a goal for what should cost as much in the largest size as in the
// smallest.
func grown(text, scenario, casename string) report.Goal {
	return report.Goal{Work: "cost of growth", Text: text, Scenario: scenario, Case: casename, Versus: report.LastRow, Bound: flat, AtMost: true}
}
