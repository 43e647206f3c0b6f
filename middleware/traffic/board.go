package traffic

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Window says about which time a leaderboard is asked.
type Window int32

// The windows. Minutes, hours and days are those of the calendar, in UTC, on the
// store's clock.
const (
	Minute  = Window(UnitMinute)
	Hour    = Window(UnitHour)
	Day     = Window(UnitDay)
	AllTime = Window(UnitAll)
)

const agoShift = 3

// Ago returns the n-th window before this one: Minute.Ago(1) is the last full
// minute. n must not be negative. It is an error to ask a board about a window that it
// may have forgotten: it keeps the last nine minutes, 24 hours and seven days beside the
// present ones (see Unit.KeepBoard). AllTime has none before it.
func (w Window) Ago(n int) Window { return w + Window(n)<<agoShift }

func (w Window) bucket(now time.Time) Bucket {
	b := BucketOf(Unit(w&(1<<agoShift-1)), now)
	if b.Unit != UnitAll {
		b.N -= int64(w >> agoShift)
	}
	return b
}

// Board is a leaderboard: members with scores that all servers add to, in the
// windows Minute, Hour, Day and AllTime. It is safe for concurrent use.
//
// However many members there are, the store keeps a few hundred of those on top in
// each window, and each process some thousands. Scores of members that come again
// and again are exact. They are never too large, and only too small by what a
// process has forgotten while the member was among those that came least (see
// Stats), and by what the store was not told because the process has three times as
// many better members as the board has places. A member that is on top only because a
// hundred processes each have a little of it needs a larger Capacity.
type Board struct {
	recorder *Recorder
	table    *table
}

func newBoard(r *Recorder, name string, capacity int) *Board {
	return &Board{r, newTable(name, capacity)}
}

// BoardOptions are the optional settings of a Board. Nil and the zero value are the
// defaults.
type BoardOptions struct {
	// Capacity is how many members the store keeps in each window at least, but
	// half as many in that of a minute; it may keep half as many again. Default
	// 256, at most 10,000.
	Capacity int
}

// Board returns the board of a name, and makes it if there is none yet; o counts
// then only, and may be nil. The name is a part of keys in the store: a word that
// stands in the program, not one that comes with a request.
func (r *Recorder) Board(name string, o *BoardOptions) (*Board, error) {
	capacity := defaultCapacity
	if o != nil && o.Capacity != 0 {
		capacity = o.Capacity
	}
	r.boardsMu.Lock()
	defer r.boardsMu.Unlock()
	if b := r.boards[name]; b != nil {
		return b, nil
	}
	switch {
	case name == "" || name != rowName(name):
		return nil, fmt.Errorf("traffic: the board's name %q is empty, longer than %d bytes, or has control characters", name, maxName)
	case capacity < 1 || capacity > maxCapacity:
		return nil, fmt.Errorf("traffic: BoardOptions.Capacity is %d; it must be from 1 to %d", capacity, maxCapacity)
	case len(r.boards) >= maxBoards:
		return nil, fmt.Errorf("traffic: there are %d boards already; use fewer, and members of them", maxBoards)
	}
	b := newBoard(r, name, capacity)
	r.boards[name] = b
	return b, nil
}

// allBoards returns the boards in a steady order.
func (r *Recorder) allBoards() []*Board {
	r.boardsMu.Lock()
	defer r.boardsMu.Unlock()
	list := slices.Collect(maps.Values(r.boards))
	slices.SortFunc(list, func(a, b *Board) int {
		if a.table.board < b.table.board {
			return -1
		}
		return 1
	})
	return list
}

// Add adds to a member's score; a negative score takes away. It takes no round
// trip: the store hears of it with the next flush. Names of members are cut after
// 256 bytes, and scores end at 2^40.
func (b *Board) Add(member string, score int64) { b.table.add(member, score) }

// bucket returns the bucket of a window, or an error if the store may have forgotten it.
func (b *Board) bucket(w Window) (Bucket, error) {
	now := b.recorder.clock.now()
	at := w.bucket(now)
	if keep := at.Unit.KeepBoard(); !at.kept(keep, now) {
		return at, fmt.Errorf("a board of a %v is kept for %v", at.Unit, keep)
	}
	return at, nil
}

// Top returns the n members with the largest scores, the largest first.
func (b *Board) Top(ctx context.Context, w Window, n int) ([]Entry, error) {
	at, err := b.bucket(w)
	var lists [][]Entry
	if err == nil {
		lists, err = b.recorder.tops(ctx, []*Board{b}, at, n)
	}
	if err != nil {
		return nil, fmt.Errorf("traffic: top of %s: %w", b.table.board, err)
	}
	return lists[0], nil
}

// tops returns the tops of some boards.
func (r *Recorder) tops(ctx context.Context, boards []*Board, at Bucket, n int) ([][]Entry, error) {
	names := make([]string, len(boards))
	for i, b := range boards {
		names[i] = b.table.board
	}
	lists, err := r.store.Top(ctx, names, at, n)
	if err == nil && len(lists) != len(boards) {
		err = errLeftOut
	}
	return lists, err
}

// Rank returns the rank of a member, from 1, and its score, or false if it is not
// among those that the store keeps.
func (b *Board) Rank(ctx context.Context, w Window, member string) (Entry, bool, error) {
	list, err := b.Around(ctx, w, member, 0)
	if err != nil || len(list) == 0 {
		return Entry{}, false, err
	}
	return list[0], true, nil
}

// Around returns a member with up to n members before and after it, or nothing if
// it is not among those that the store keeps.
func (b *Board) Around(ctx context.Context, w Window, member string, n int) ([]Entry, error) {
	if len(member) > maxMember {
		member = member[:maxMember]
	}
	at, err := b.bucket(w)
	var list []Entry
	if err == nil {
		list, err = b.recorder.store.Around(ctx, b.table.board, at, member, n)
	}
	if err != nil {
		return nil, fmt.Errorf("traffic: around a member of %s: %w", b.table.board, err)
	}
	return list, nil
}
