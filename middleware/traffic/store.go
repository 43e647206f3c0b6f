package traffic

import (
	"context"
	"fmt"
	"time"
)

// A Store keeps the figures of all servers. Each method is one atomic step in it, but
// for Apply and Top, whose parts are. Time is the store's own.
//
// Errors are for system faults only. Implementations must be safe for concurrent
// use. The suite in package traffictest states the rules as tests.
type Store interface {
	// Salt returns the salt of a day, the number of days since 1970 in UTC, and
	// the store's time. Whoever asks first makes it, of 32 random bytes. The
	// store forgets it when the day is over.
	Salt(ctx context.Context, day int64) (salt []byte, now time.Time, err error)

	// Apply adds a batch, once: a batch of the same node whose number is that
	// of one that was applied already, or smaller, changes nothing. After an
	// error parts of it may have been added, and Apply may be called again with
	// the same batch.
	Apply(ctx context.Context, b *Batch) (Receipt, error)

	// Counters returns what was counted in each of the buckets, in their order,
	// and nothing for those without any. A Recorder asks for 64 at most at a
	// time.
	Counters(ctx context.Context, buckets []Bucket) ([][]Row, error)

	// Visitors returns how many visitors there were in each of the groups of
	// buckets, each counted once in a group.
	Visitors(ctx context.Context, groups [][]Bucket) ([]uint64, error)

	// Top returns the n members with the largest scores of each of some boards,
	// the largest first.
	Top(ctx context.Context, boards []string, b Bucket, n int) ([][]Entry, error)

	// Around returns a member of a board with up to n members before and after
	// it, in the order of Top, or nothing if it is not on the board.
	Around(ctx context.Context, board string, b Bucket, member string, n int) ([]Entry, error)
}

// Unit is the length of a Bucket.
type Unit uint8

// The units. Days are those of UTC.
const (
	UnitMinute Unit = iota
	UnitHour
	UnitDay
	UnitAll // from the beginning to the end
)

// units is how many there are.
const units = 4

// Duration returns the length of the unit, or 0 for UnitAll.
func (u Unit) Duration() time.Duration {
	switch u {
	case UnitMinute:
		return time.Minute
	case UnitHour:
		return time.Hour
	case UnitDay:
		return 24 * time.Hour
	}
	return 0
}

// String returns "minute", "hour", "day" or "all".
func (u Unit) String() string {
	if u < units {
		return [units]string{"minute", "hour", "day", "all"}[u]
	}
	return fmt.Sprintf("Unit(%d)", uint8(u))
}

// Keep returns for how long counters and visitors are kept after the last write:
// two hours by the minute, eight days by the hour, 400 days by the day, and a unit
// more, so that the one in which that time begins is whole.
func (u Unit) Keep() time.Duration {
	switch u {
	case UnitMinute:
		return 2*time.Hour + u.Duration()
	case UnitHour:
		return 8*24*time.Hour + u.Duration()
	}
	return 401 * 24 * time.Hour
}

// KeepBoard returns for how long a board is kept after the last write: ten minutes
// by the minute, 25 hours by the hour, eight days by the day, and 400 days that of
// all time.
func (u Unit) KeepBoard() time.Duration {
	switch u {
	case UnitMinute:
		return 10 * time.Minute
	case UnitHour:
		return 25 * time.Hour
	case UnitDay:
		return 8 * 24 * time.Hour
	}
	return 400 * 24 * time.Hour
}

// Bucket is a unit of time: its number N counts from 1970, in UTC.
type Bucket struct {
	Unit Unit
	N    int64
}

// BucketOf returns the bucket that t is in.
func BucketOf(u Unit, t time.Time) Bucket {
	if u == UnitAll {
		return Bucket{Unit: u}
	}
	seconds, length := t.Unix(), int64(u.Duration()/time.Second)
	n := seconds / length
	if seconds%length < 0 {
		n--
	}
	return Bucket{u, n}
}

// Start returns when the bucket begins.
func (b Bucket) Start() time.Time {
	return time.Unix(b.N*int64(b.Unit.Duration()/time.Second), 0).UTC()
}

// kept reports whether all of the bucket is there at a time, if it is kept for so long
// after its last write.
func (b Bucket) kept(keep time.Duration, now time.Time) bool {
	return b.Unit == UnitAll || !b.Start().Before(now.Add(-keep))
}

// In returns the bucket of a longer unit that b is in.
func (b Bucket) In(u Unit) Bucket { return BucketOf(u, b.Start()) }

// Batch is what a node has counted since its last one.
type Batch struct {
	// Node names one run of a process, and no other. Seq numbers its batches,
	// from 1.
	Node string
	Seq  uint64
	// Slices are the counters, by minute.
	Slices []Slice
	// Boards are the changes of leaderboards, at most one for each board and
	// bucket.
	Boards []BoardUpdate
}

// Slice is what was counted in a minute.
type Slice struct {
	Minute   int64 // since 1970
	Rows     []Row
	Visitors *Sketch // nil for nobody
}

// Kind says what a Row is about.
type Kind byte

const (
	// KindRoute is a row of a route.
	KindRoute Kind = 'r'
	// KindNode is a row of a server.
	KindNode Kind = 'n'
)

// Other is the name of the row that stands for all routes, or nodes, for which
// there was no room.
const Other = "(other)"

// MaxRoutes and MaxNodes are how many rows a store has for a day, besides those called
// Other. What comes on top is counted in those. Servers that have another name each time
// that they start take no row from a route so, nor routes that are paths from a server.
const (
	MaxRoutes = 382
	MaxNodes  = 128
)

// Row is what was counted of one route, or on one node.
type Row struct {
	Kind Kind
	Name string
	Counters
}

// BoardUpdate is a change of one leaderboard in one bucket.
type BoardUpdate struct {
	Board  string
	Bucket Bucket
	// Capacity is how many members the store keeps at least, if there are as
	// many. It forgets those with the smallest scores when there are more than
	// half as many again.
	Capacity int
	Updates  []Update
}

// Update is a change of one member of a leaderboard.
//
// Nodes do not tell the store of every member. So that none is counted short that
// was forgotten in between, each stay of a member on the board has a number, its
// admission. If the member is there with the admission that the node knows, Delta
// is added. If it is there with another one, what the node has sent before is
// gone, and Total is added. If it is not there it is admitted with Total if it is
// a Candidate, else it stays out. A score ends at 2^40, and at -2^40.
type Update struct {
	Member    string
	Delta     int64
	Total     int64
	Admission uint16 // 0 if the node has not sent anything of it
	Candidate bool
}

// Receipt is the answer to a Batch.
type Receipt struct {
	// Now is the store's time.
	Now time.Time
	// Boards are the answers to each BoardUpdate.
	Boards []BoardReceipt
}

// BoardReceipt is the answer to a BoardUpdate.
type BoardReceipt struct {
	// Admissions are, for each Update, the admission with which the member is on
	// the board now, or 0.
	Admissions []uint16
	// Trims is how often members of the board were forgotten. When it changes, a
	// node reports anew what it has.
	Trims uint64
}

// Entry is a member of a leaderboard.
type Entry struct {
	// Rank is 1 for the largest score. Members with equal scores have different
	// ranks, in an order that does not mean anything.
	Rank   int    `json:"rank"`
	Member string `json:"member"`
	Score  int64  `json:"score"`
}
