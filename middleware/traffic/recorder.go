package traffic

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/nils"
)

const (
	defaultInterval = time.Second
	defaultTimeout  = 2 * time.Second
	minInterval     = 10 * time.Millisecond
	// defaultCapacity is how many members a board has in the store at least.
	defaultCapacity = 256
	maxCapacity     = 10_000
	maxBoards       = 64
	// saltAhead is how long before midnight the next day's salt is asked for.
	saltAhead = 10 * time.Minute
	logEvery  = time.Minute
)

// PathsBoard is the board on which a Recorder counts the paths of requests.
const PathsBoard = "paths"

// Options are the optional settings of a Recorder. Nil and the zero value are the
// defaults.
type Options struct {
	// Node names this server in reports. Default the host's name. A store tells
	// MaxNodes of them apart a day; servers that get another name with each start
	// had better be named here.
	Node string
	// Interval is the time between two flushes, and what is lost when a process
	// is killed. Default 1 second, at least 10 ms.
	Interval time.Duration
	// Timeout bounds each step of a flush, and all that the dashboard reads
	// together. Default 2 seconds.
	Timeout time.Duration
	// Route returns the route of a request, for routers that do not say it in
	// Request.Pattern. It must be one of a few dozen: what comes after the
	// first 255 is counted as Other. By default it is what SetRoute has said,
	// or Request.Pattern.
	Route func(*http.Request) string
	// Path returns what is counted on PathsBoard, "" for nothing. Default
	// URL.Path, as the client sent it: if there are secrets in paths, such as
	// in links that reset passwords, leave those out.
	Path func(*http.Request) string
	// Addr returns the address of the client, by which unique visitors are
	// counted, IPv6 by its first 64 bits. Behind proxies use the method Addr of
	// a clientip.Resolver. Default the address of the peer.
	Addr func(*http.Request) (netip.Addr, error)
	// Visitor names the visitor in another way, such as by the session's user.
	// If it returns "" it is the address that counts.
	Visitor func(*http.Request) string
	// Logger gets store faults, once a minute at most. Default slog.Default().
	Logger *slog.Logger
}

// Recorder counts requests, and whatever a program feeds to its boards. Make one
// with New, and end it with Close. It is safe for concurrent use.
type Recorder struct {
	store   Store
	opts    Options
	id      string // names this run of the process
	live    *live
	clock   clock
	visitor visitors
	paths   *Board

	boardsMu sync.Mutex
	boards   map[string]*Board

	// flushing guards what belongs to who flushes.
	flushing chan struct{} // has room for one
	seq      uint64
	frozen   *parcel // what was sent, and not confirmed
	loggedAt time.Time

	flushes, faults atomic.Uint64

	stop    context.CancelFunc
	stopped chan struct{}
}

// parcel is a batch under way.
type parcel struct {
	batch   Batch
	tables  []*table // of each of batch.Boards
	members [][]*member
}

// New returns a Recorder that keeps its figures in store, and begins to flush. It
// reports all faults of its arguments at once. o may be nil.
func New(store Store, o *Options) (*Recorder, error) {
	r := &Recorder{store: store, id: rand.Text(), boards: make(map[string]*Board), stopped: make(chan struct{}), flushing: make(chan struct{}, 1)}
	if o != nil {
		r.opts = *o
	}
	opts := &r.opts
	var faults []error
	if nils.Is(store) {
		faults = append(faults, errors.New("traffic: the store is nil; pass NewMemoryStore() or redistraffic.New(client, nil)"))
	}
	if opts.Interval == 0 {
		opts.Interval = defaultInterval
	}
	if opts.Interval < minInterval {
		faults = append(faults, fmt.Errorf("traffic: Options.Interval is %v; it must be at least %v", opts.Interval, minInterval))
	}
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.Timeout < 0 {
		faults = append(faults, fmt.Errorf("traffic: Options.Timeout is negative (%v)", opts.Timeout))
	}
	if opts.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			faults = append(faults, fmt.Errorf("traffic: the host has no name, set Options.Node: %w", err))
		}
		opts.Node = host
	}
	opts.Node = rowName(opts.Node)
	r.live = newLive(opts.Node)
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	r.clock.begin()
	r.paths = newBoard(r, PathsBoard, defaultCapacity)
	r.boards[PathsBoard] = r.paths
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go r.run(ctx)
	return r, nil
}

// run flushes until ctx ends.
func (r *Recorder) run(ctx context.Context) {
	defer close(r.stopped)
	tick := time.NewTicker(r.opts.Interval)
	defer tick.Stop()
	for {
		if err := r.Flush(ctx); err != nil && ctx.Err() == nil {
			r.log(ctx, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Recorder) log(ctx context.Context, err error) {
	defer func() { _ = recover() }() // the logger is not ours, and where else would one say so?
	if now := time.Now(); r.loggedAt.IsZero() || now.Sub(r.loggedAt) >= logEvery {
		r.loggedAt = now
		r.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "traffic: figures could not be sent; they are kept, and sent later", slog.Any("error", err))
	}
}

// Close ends the flushing, with a last flush. ctx bounds all of it. Without an error the
// Recorder uses its store and its logger no more. Requests may still be counted then,
// but are not sent any more. After an error it may be called again, for what was not
// sent.
func (r *Recorder) Close(ctx context.Context) error {
	r.stop()
	select {
	case <-r.stopped:
	case <-ctx.Done():
		return fmt.Errorf("traffic: close: the flushing has not ended: %w", ctx.Err())
	}
	return r.Flush(ctx)
}

// Flush sends what was counted now, and not at the next interval. After an error
// what was not sent is kept for the next flush. A panic of the store is an error.
//
// It returns when ctx ends, also if the store does not: a flush that is under way
// goes on then, and those that come later wait for it, each as long as its ctx.
func (r *Recorder) Flush(ctx context.Context) error {
	select {
	case r.flushing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("traffic: flush: another one is under way: %w", ctx.Err())
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("the store has ended its goroutine")
		defer func() { // a panic would end the process here, and not a request only
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n\n%s", p, debug.Stack())
			}
			if err != nil {
				r.faults.Add(1)
				err = fmt.Errorf("traffic: flush: %w", err)
			} else {
				r.flushes.Add(1)
			}
			<-r.flushing
			done <- err
		}()
		err = r.flushAll(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("traffic: flush: %w", ctx.Err())
	}
}

// flushAll belongs to who has the place in r.flushing.
func (r *Recorder) flushAll(ctx context.Context) error {
	err := r.salt(ctx) // before the rest, which then has those visitors that wait for it
	r.live.gather(minuteOf(r.clock.now()), r.clock.synced.Load())
	if err == nil {
		err = r.flush(ctx)
	}
	return err
}

func (r *Recorder) flush(ctx context.Context) error {
	if r.frozen != nil {
		if err := r.send(ctx); err != nil {
			return err
		}
	}
	if r.freeze(); r.frozen != nil {
		return r.send(ctx)
	}
	return nil
}

// freeze makes a batch of what is there. It stays as it is until the store has
// confirmed it: it may have arrived although there was an error, and the store knows
// it by its number only.
func (r *Recorder) freeze() {
	p := &parcel{batch: Batch{Node: r.id, Seq: r.seq + 1}}
	for _, s := range r.live.take() {
		if s.guessed {
			s.minute = r.clock.corrected(s.minute)
		}
		p.batch.Slices = append(p.batch.Slices, s.batch())
	}
	now := r.clock.now()
	var buckets [units]Bucket
	for u := range buckets {
		buckets[u] = BucketOf(Unit(u), now)
	}
	for _, b := range r.allBoards() {
		updates, members := b.table.seal(buckets)
		p.batch.Boards = append(p.batch.Boards, updates...)
		p.members = append(p.members, members...)
		for range updates {
			p.tables = append(p.tables, b.table)
		}
	}
	if len(p.batch.Slices)+len(p.batch.Boards) == 0 {
		return
	}
	r.seq, r.frozen = r.seq+1, p
}

// send brings the frozen batch to the store.
func (r *Recorder) send(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	p := r.frozen
	receipt, err := r.store.Apply(ctx, &p.batch)
	if err != nil {
		return err
	}
	if len(receipt.Boards) != len(p.batch.Boards) {
		return fmt.Errorf("the store answered to %d boards instead of %d", len(receipt.Boards), len(p.batch.Boards))
	}
	for i, b := range receipt.Boards {
		if got, want := len(b.Admissions), len(p.members[i]); got != want {
			return fmt.Errorf("the store answered to %d members of a board instead of %d", got, want)
		}
	}
	r.clock.sync(receipt.Now)
	for i, t := range p.tables {
		t.settle(p.batch.Boards[i], p.members[i], receipt.Boards[i])
	}
	r.frozen = nil
	return nil
}

// salt sees to it that the salt of the present day is known, and shortly before
// midnight the next one.
func (r *Recorder) salt(ctx context.Context) error {
	for range 2 { // the first answer may tell that it is another day
		day := dayOf(r.clock.now())
		if r.visitor.promote(day) {
			if ahead := dayOf(r.clock.now().Add(saltAhead)); ahead != day && r.visitor.salt(ahead) == nil {
				return r.fetchSalt(ctx, ahead)
			}
			return nil
		}
		if err := r.fetchSalt(ctx, day); err != nil {
			return err
		}
	}
	return nil
}

func (r *Recorder) fetchSalt(ctx context.Context, day int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	salt, now, err := r.store.Salt(ctx, day)
	if err != nil {
		return err
	}
	r.clock.sync(now)
	switch d := newDaySalt(day, salt); dayOf(now) {
	case day:
		minute := r.clock.minute(r.clock.now())
		r.visitor.set(d, true, func(hash uint64) { r.live.visit(minute, hash) })
	case day - 1:
		r.visitor.set(d, false, nil)
	}
	return nil
}

func dayOf(t time.Time) int64    { return BucketOf(UnitDay, t).N }
func minuteOf(t time.Time) int64 { return BucketOf(UnitMinute, t).N }

// clock is the store's clock, as far as this process knows it: what the store has
// said, and the monotonic time since then.
type clock struct {
	start  time.Time
	origin atomic.Int64 // the store's time at start, in ns since 1970
	synced atomic.Bool  // the store has said something
}

func (c *clock) begin() {
	c.start = time.Now()
	c.origin.Store(c.start.UnixNano())
}

func (c *clock) sync(store time.Time) {
	c.origin.Store(store.UnixNano() - int64(time.Since(c.start)))
	c.synced.Store(true)
}

// minute returns the minute that t, a time of the store, is in, or 0 as long as one does
// not know.
func (c *clock) minute(t time.Time) int64 {
	if !c.synced.Load() {
		return 0
	}
	return minuteOf(t)
}

// corrected returns the minute of the store that was a minute of this server before one
// knew the store's clock.
func (c *clock) corrected(minute int64) int64 {
	middle := Bucket{UnitMinute, minute}.Start().Add(time.Minute / 2)
	return minuteOf(middle.Add(time.Duration(c.origin.Load() - c.start.UnixNano())))
}

func (c *clock) at(t time.Time) time.Time { return time.Unix(0, c.origin.Load()+int64(t.Sub(c.start))) }

func (c *clock) now() time.Time { return c.at(time.Now()) }

// Stats are what a Recorder has done, and what it had no room for.
type Stats struct {
	// Flushes are those that succeeded, Faults the others. What a fault kept
	// from the store is sent by the next flush.
	Flushes, Faults uint64
	// UncountedAdditions are additions to boards, among them requests to
	// PathsBoard, of members that were new when there was no room for more. The
	// requests are counted everywhere else.
	UncountedAdditions uint64
	// ForgottenMembers are members of boards that gave way to others.
	ForgottenMembers uint64
	// UncountedVisitors are requests of visitors that came before the store
	// was reached for the first time that day, and for which there was no room.
	UncountedVisitors uint64
}

// Stats returns the Stats of this process.
func (r *Recorder) Stats() Stats {
	s := Stats{Flushes: r.flushes.Load(), Faults: r.faults.Load()}
	for _, b := range r.allBoards() {
		additions, members := b.table.dropped()
		s.UncountedAdditions += additions
		s.ForgottenMembers += members
	}
	r.visitor.mu.Lock()
	s.UncountedVisitors = r.visitor.dropped
	r.visitor.mu.Unlock()
	return s
}

// Hit is a request that was served.
type Hit struct {
	// Route is the pattern that has matched it, Path what is counted on
	// PathsBoard. Either may be empty.
	Route, Path string
	Status      int
	Bytes       int64         // of the body of the response
	Latency     time.Duration // does not count if Status is 101
	Cache       CacheStatus
	// Addr is the client's address, Visitor another name of the visitor, which
	// goes first. Without either nobody is counted.
	Addr    netip.Addr
	Visitor string
}

// CacheStatus says what a cache did about a request.
type CacheStatus uint8

const (
	// CacheNone: there was no cache.
	CacheNone CacheStatus = iota
	// CacheHit: the response came out of it.
	CacheHit
	// CacheMiss: it did not.
	CacheMiss
)

// Record counts a request. It is what Handler does after each, for those to whom
// that is of no use. It takes no round trip and does not allocate.
func (r *Recorder) Record(h Hit) { r.record(&h, time.Now()) }

func (r *Recorder) record(h *Hit, now time.Time) {
	at := r.clock.at(now)
	hash, ok := r.visitor.hash(h, dayOf(at))
	r.live.count(r.clock.minute(at), h, hash, ok)
	if h.Path != "" {
		r.paths.Add(h.Path, 1)
	}
}
