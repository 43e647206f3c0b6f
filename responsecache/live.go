package responsecache

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// live is a response that is being made: who records it writes, and others of the
// same process read along. It holds the last bytes only, so that a long body never
// is in memory as a whole.
type live struct {
	response *stored                                   // but for the body; length is -1 if it is not known
	page     string                                    // key of the page that it is of
	rule     rule                                      // under which that is found
	asked    time.Time                                 // when the handler was
	came     time.Time                                 // when the header did
	ttl      time.Duration                             // from then on
	settled  chan struct{}                             // closed when it is the outcome, or never will be
	awaited  atomic.Bool                               // somebody waits for that
	vary     []string                                  // the fields that select it
	selected string                                    // and a digest of their values
	rest     func(offset int64) (io.ReadCloser, error) // after a good end, for readers that fell behind

	mu      sync.Mutex
	changed chan struct{} // closed and made anew when there is more, or the end
	moved   chan struct{} // gets a value when a reader has moved or left
	chunks  [][]byte
	base    int64 // where the first chunk begins
	end     int64
	flushed int64 // up to where the handler has asked for delivery
	readers map[*reader]struct{}
	unread  func() // called once nobody reads any more; nil: nothing is to be done
	closed  bool   // nobody begins to read any more
	done    bool   // nothing comes any more
	err     error  // it has not come to a good end
}

const (
	// liveWindow is how many bytes are held at least, so that readers need not
	// be equally fast.
	liveWindow = 8 << 20
	// livePatience is for how long who records waits for a reader that takes
	// nothing at all, when it has fallen behind by the window.
	livePatience = time.Second
	// livePace is how many bytes in a second a reader is to take while who records
	// waits for it, after liveGrace.
	livePace  = 128 << 10
	liveGrace = 5 * time.Second
	// liveChunk is the size of the pieces in which small writes are gathered.
	liveChunk = 64 << 10
)

// errBehind is the end of a reader that was too slow.
var errBehind = errors.New("responsecache: the reader has fallen behind")

func newLive(s *stored) *live {
	return &live{
		response: s, settled: make(chan struct{}),
		changed: make(chan struct{}), moved: make(chan struct{}, 1), readers: make(map[*reader]struct{}),
	}
}

// hasMoved tells the one who records that a reader has.
func (l *live) hasMoved() {
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// notify wakes all readers that wait. The caller holds mu.
func (l *live) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// write appends a copy of p.
func (l *live) write(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		last := len(l.chunks) - 1
		if last < 0 || len(l.chunks[last]) == cap(l.chunks[last]) {
			l.chunks = append(l.chunks, make([]byte, 0, max(min(len(p), 4*liveChunk), l.nextSize())))
			last++
		}
		// Appending within the capacity changes nothing that readers hold.
		n := min(len(p), cap(l.chunks[last])-len(l.chunks[last]))
		l.chunks[last] = append(l.chunks[last], p[:n]...)
		p, l.end = p[n:], l.end+int64(n)
	}
	l.notify()
	l.trim()
}

// nextSize lets chunks grow with the body, so that small ones take little.
func (l *live) nextSize() int { return int(min(max(l.end, 512), liveChunk)) }

// trim lets go of what lies before the window. It waits for readers that are still
// there, as long as they keep pace.
func (l *live) trim() {
	for l.end-l.base > liveWindow {
		first := l.base + int64(len(l.chunks[0]))
		for slow := l.slowest(first); slow != nil; slow = l.slowest(first) {
			at, began := slow.offset, time.Now()
			timer := time.NewTimer(livePatience)
			l.mu.Unlock()
			select {
			case <-l.moved:
			case <-timer.C:
			}
			timer.Stop()
			l.mu.Lock()
			slow.held += time.Since(began)
			slow.taken += slow.offset - at
			if _, there := l.readers[slow]; there && slow.isTooSlow(at) {
				slow.behind = true
				delete(l.readers, slow)
				l.checkUnread()
				l.notify()
			}
		}
		l.base, l.chunks[0] = first, nil
		l.chunks = l.chunks[1:]
	}
}

// slowest returns a reader that has not come to offset, or nil.
func (l *live) slowest(offset int64) *reader {
	for r := range l.readers {
		if r.offset < offset {
			return r
		}
	}
	return nil
}

// flush asks for the delivery of what has been written.
func (l *live) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed = l.end
	l.notify()
}

// seal lets nobody begin to read any more. Those who have go on.
func (l *live) seal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// isRead reports whether anybody reads, or may begin to.
func (l *live) isRead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed || len(l.readers) > 0
}

// hasReaders reports whether anybody reads.
func (l *live) hasReaders() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.readers) > 0
}

// whenUnread calls f as soon as nobody reads, and nobody begins to any more.
func (l *live) whenUnread(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unread = f
	l.checkUnread()
}

// checkUnread does what is to be done if nobody reads any more. The caller holds mu.
func (l *live) checkUnread() {
	if l.unread != nil && l.closed && len(l.readers) == 0 {
		l.unread()
		l.unread = nil
	}
}

// finish ends it. A nil err means that the body is whole; rest then opens what is
// stored of it, or is nil.
func (l *live) finish(err error, rest func(int64) (io.ReadCloser, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return
	}
	l.closed, l.done, l.err, l.rest = true, true, err, rest
	l.notify()
}

// bytes returns all that was written, if it is all there.
func (l *live) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.chunks) == 1 {
		return l.chunks[0]
	}
	b := make([]byte, 0, l.end)
	for _, chunk := range l.chunks {
		b = append(b, chunk...)
	}
	return b
}

// pending returns what is held, piece by piece.
func (l *live) pending() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([][]byte(nil), l.chunks...)
}

// join returns a new reader from the beginning, or nil if that is gone. over
// reports that nobody need wait for it any more: what has become of the response is
// settled.
func (l *live) join() (r *reader, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	whole := l.done && l.err == nil
	if l.base > 0 || l.closed && !whole {
		return nil, l.closed
	}
	r = &reader{live: l, moved: time.Now()}
	if !whole {
		l.readers[r] = struct{}{}
	}
	return r, false
}

// reader reads along. It must be left.
type reader struct {
	live *live
	// Guarded by live.mu.
	offset    int64
	delivered int64 // of that, what was to be delivered at once
	moved     time.Time
	behind    bool
	held      time.Duration // how long it has been waited for
	taken     int64         // the bytes that it has taken meanwhile
}

// isTooSlow reports whether nobody waits for the reader any more, which was at that
// offset before it was waited for.
func (r *reader) isTooSlow(at int64) bool {
	return r.offset == at && time.Since(r.moved) >= livePatience ||
		r.held >= liveGrace && float64(r.taken) < r.held.Seconds()*livePace
}

func (r *reader) leave() {
	r.live.mu.Lock()
	defer r.live.mu.Unlock()
	delete(r.live.readers, r)
	r.live.checkUnread()
	r.live.hasMoved()
}

// next returns the bytes after those that it has returned before, and whether the
// handler has asked for their delivery; if it asks for that later, there are no
// bytes. It waits for them until cancel. At a good end it returns io.EOF.
func (r *reader) next(cancel <-chan struct{}) (p []byte, flush bool, err error) {
	l := r.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case r.behind:
			return nil, false, errBehind
		case r.offset < l.end:
			p = r.here()
			r.offset += int64(len(p))
			r.moved = time.Now()
			l.hasMoved()
			flush = l.flushed >= r.offset || r.offset < l.end
			if flush {
				r.delivered = r.offset
			}
			return p, flush, nil
		case r.delivered < r.offset && l.flushed >= r.offset:
			// It was asked for after the bytes had been taken.
			r.delivered = r.offset
			return nil, true, nil
		case l.done && l.err != nil:
			return nil, false, l.err
		case l.done:
			return nil, false, io.EOF
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-cancel:
			l.mu.Lock()
			return nil, false, http.ErrAbortHandler
		}
		l.mu.Lock()
	}
}

// here returns what is held from the reader's offset on, up to the end of a chunk.
func (r *reader) here() []byte {
	at := r.live.base
	for _, chunk := range r.live.chunks {
		if r.offset < at+int64(len(chunk)) {
			return chunk[r.offset-at:]
		}
		at += int64(len(chunk))
	}
	return nil
}

// flushedOr reports whether delivery was asked for, or there are n bytes.
func (l *live) flushedOr(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushed > 0 || l.end >= n
}

// waitForEnd waits until the response has ended or cancel, and returns what opens it
// at the reader's offset, or nil.
func (r *reader) waitForEnd(cancel <-chan struct{}) (rest func(int64) (io.ReadCloser, error), offset int64) {
	l := r.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.done {
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-cancel:
			l.mu.Lock()
			return nil, 0
		}
		l.mu.Lock()
	}
	return l.rest, r.offset
}
