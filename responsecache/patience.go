package responsecache

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// leaderPace is how many bytes in a second the client that leads is to take while others
// read along, after liveGrace. It is less than theirs: they get the rest from the store
// when they are left behind, and it loses its connection.
const leaderPace = 32 << 10

// unnoticed is how long a write may take without any account of it: a busy machine is not
// a slow client.
const unnoticed = 10 * time.Millisecond

// errSlow is the end of a client that has led, and was too slow for the others.
var errSlow = errors.New("responsecache: the client has held up those who read along")

// patience is that of those who read along with the client that leads: the handler writes to
// that client, and waits for it.
type patience struct {
	rec *recorder

	mu      sync.Mutex
	timer   *time.Timer   // from the first write on
	sending bool          // a write is under way
	since   time.Time     // of it, or since when others have been waiting for it
	late    time.Duration // by how much the client was behind before it
	over    bool
	ended   bool
}

// begin says that something is about to be sent. It must be followed by end.
func (p *patience) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sending, p.since = true, time.Now()
	if p.timer == nil {
		p.timer = time.AfterFunc(livePatience, p.tick)
	}
}

// end says that n bytes have been sent, or could not be, and reports whether the client
// has been left behind.
func (p *patience) end(n int) (over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sending = false
	if took := time.Since(p.since); took > unnoticed {
		p.late += took
	}
	p.late = max(0, p.late-time.Duration(n)*time.Second/leaderPace)
	if p.late > 0 && !p.rec.live.hasReaders() {
		p.late = 0
	}
	return p.over
}

// stop ends it for good. Nothing is called on the writer any more.
func (p *patience) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// tick looks each second for how long others have been waiting for the write under way.
// As long as it holds the lock, that write does not return to the handler.
func (p *patience) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.over {
		return
	}
	p.timer.Reset(livePatience)
	if !p.sending {
		return
	}
	rec := p.rec
	if rec.keep && rec.written > 0 && time.Since(p.since) >= livePatience {
		rec.share() // those who wait for the page can have what there is
	}
	if !rec.live.hasReaders() {
		p.since, p.late = time.Now(), 0
		return
	}
	if p.late+time.Since(p.since) >= liveGrace {
		// Never to be lifted: what comes after a write that has failed, nobody can have.
		p.over = http.NewResponseController(rec.w).SetWriteDeadline(time.Now().Add(-time.Second)) == nil
	}
}

// beginSending says that the client may hold up others from now until endSending.
func (rec *recorder) beginSending() {
	if rec.live != nil && !rec.x.background {
		rec.waits.begin()
	}
}

// endSending says that n bytes have been sent, and reports whether the client has been
// left behind.
func (rec *recorder) endSending(n int) (over bool) {
	return rec.live != nil && !rec.x.background && rec.waits.end(n)
}
