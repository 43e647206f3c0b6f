package responsecache

import (
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/herdless/herdless/cache"
)

// knownPages remembers the names of pages that were hit lately, and their keys, so
// that they need not be made for each request. It is bounded, and takes no lock.
type knownPages struct {
	seed  maphash.Seed
	slots [2048]atomic.Pointer[knownPage]
}

// maxKnownPage is the length up to which what a client sends is remembered.
const maxKnownPage = 512

// knownPage is what a plain request (isPlain) for a page says, and what follows from
// it.
type knownPage struct {
	secure       bool
	host, target string
	path, query  string // the parts of the target
	name         pageName
	key          string

	// What was last read from the store or told of it, and is most often the same again,
	// or nil.
	head   atomic.Pointer[head]
	moment atomic.Pointer[moment]
	// handle finds what was found under key last, or is nil.
	handle atomic.Pointer[cache.Handle]
}

// peek puts the entry under key into e, as far as a hit needs it, if the page knows where it is.
func (p *knownPage) peek(key string, e *cache.Entry) bool {
	if p == nil || p.key != key {
		return false
	}
	handle := p.handle.Load()
	if handle == nil {
		return false
	}
	kept, age, ttl, ok := (*handle).Peek()
	if ok {
		e.Kind, e.Data, e.Body, e.Version, e.Local, e.Memo = kept.Kind, kept.Data, kept.Body, kept.Version, kept.Local, kept.Memo
		e.Age, e.TTL = age, ttl
	}
	return ok
}

// found remembers where the entry under key is.
func (p *knownPage) found(key string, e *cache.Entry) {
	if p != nil && p.key == key && e.Handle != nil {
		handle := e.Handle
		p.handle.Store(&handle)
	}
}

func newKnownPages() *knownPages { return &knownPages{seed: maphash.MakeSeed()} }

func (k *knownPages) slot(r *http.Request) *atomic.Pointer[knownPage] {
	hash := maphash.String(k.seed, r.RequestURI) + 31*maphash.String(k.seed, r.Host)
	return &k.slots[hash%uint64(len(k.slots))]
}

// get returns what is known of the page that a request is for, or nil. Only of a
// request that says the very same: middleware may have changed its URL.
func (k *knownPages) get(r *http.Request) *knownPage {
	p := k.slot(r).Load()
	if p == nil || p.target != r.RequestURI || p.host != r.Host || p.secure != (r.TLS != nil) {
		return nil
	}
	if u := r.URL; u.Path != p.path || u.RawQuery != p.query || u.RawPath != "" || u.ForceQuery {
		return nil
	}
	return p
}

// set remembers the page that a request is for. Who comes later
// seldom takes another one's place, so that a site with more pages than there are places
// does not remember in vain all the time.
func (k *knownPages) set(r *http.Request) {
	slot := k.slot(r)
	if slot.Load() != nil && rand.Uint32()%16 > 0 {
		return
	}
	if !isPlain(r) || r.URL.ForceQuery || len(r.RequestURI)+len(r.Host) > maxKnownPage {
		return
	}
	kept := *r
	kept.RequestURI, kept.Host = strings.Clone(r.RequestURI), strings.Clone(r.Host) // and not all of the request
	p := &knownPage{secure: r.TLS != nil, host: kept.Host, target: kept.RequestURI, name: nameOf(&kept, nil)}
	p.key = p.name.key()
	p.path, p.query = p.name.path, strings.TrimPrefix(p.name.query, "?")
	slot.Store(p)
}
