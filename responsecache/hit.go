package responsecache

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/cache"
)

// hit answers the request with a fresh response that this process has, if it wants
// all of one and nothing in particular, as most requests do. It reports false, and has sent
// nothing, if there is more to do; then a.spot says from where on to look.
//
// It does what an exchange does with such a request, without what that needs for all
// others. TestAllocationsOfAHit counts what it allocates.
func (a *asked) hit(ctx context.Context, w http.ResponseWriter) bool {
	if a.says&(saysWants|saysPart) > 0 && (a.wants != nothing || !a.wantsAll()) || a.r.Method != http.MethodGet {
		return false
	}
	mayShare := a.says&saysCredentials == 0 && a.r.TLS == nil // for all that this request is
	for range 3 {                                             // an alias, the page, its variant
		key := a.spot.key
		var e cache.Entry
		if !a.known.peek(key, &e) {
			var ok bool
			if e, ok = a.cache.engine.Peek(key); !ok {
				return false
			}
			a.known.found(key, &e)
		}
		f, ok := readKnown(key, &e, a.known, nil)
		if !ok {
			return false
		}
		s := f.response
		switch {
		case s == nil:
			a.follow(f)
		case !s.isShort(), s.failing, !mayShare && !a.shares(s),
			a.route.policy.Compress && !e.Local, // nobody would keep what is made of it
			a.fit(s, &e) != cache.Use:
			return false
		default:
			a.replyAll(w, a.form(s), &e, hit(s.left(&e)), nil)
			a.cache.engine.CountHit(ctx, key, &e)
			return true
		}
	}
	return false
}

// wantsAll reports a request for a whole response, without conditions or ranges.
func (a *asked) wantsAll() bool {
	h := a.r.Header
	return a.r.Method == http.MethodGet && len(h["If-None-Match"]) == 0 && len(h["If-Modified-Since"]) == 0 && len(h["Range"]) == 0
}

// isShort reports a response that is as it was read from the store, with its body.
func (s *stored) isShort() bool {
	return s.head != nil && s.stream.ID == "" && bodyAllowed(s.status)
}

// replyAll answers with all of a short response.
//
// The fields are assigned to the header, because their names are in canonical form.
// Their values are copied into one piece of memory for all: whoever gets the header
// may change it, and must not change it for others. It is room, which the response
// keeps, if that is enough.
func (a *asked) replyAll(w http.ResponseWriter, s *stored, e *cache.Entry, st status, room []string) {
	h := w.Header()
	alone := len(h) == 0
	if !alone {
		a.cache.takeOff(h) // what others have set
	}
	m := s.momentOf(a, e, st)
	values := room
	if len(values) < len(m.values) {
		values = make([]string, len(m.values))
	}
	copy(values, m.values)
	for i := range m.fields {
		f := &m.fields[i]
		list := values[f.from:f.to:f.to]
		switch {
		case !f.joins || alone || len(h[f.name]) == 0:
			h[f.name] = list
		case f.name == "Vary": // outer middleware varies on more for this request
			addVary(h, list)
		default:
			h[f.name] = append(slices.Clip(h[f.name]), list...)
		}
	}
	w.WriteHeader(s.status)
	_, _ = w.Write(s.body) // a client that has gone
}

// moment is the header of a stored response as it is told as long as its Age and TTL are the
// same number of seconds. Those who get it share it, and copy the values.
type moment struct {
	// What it depends on besides the response.
	cache    *Cache
	page     string
	age, ttl int64  // of the response, in seconds
	fwd      string // why the request would have gone to the handler; empty for a hit
	// What it depends on of the response.
	head   *head
	length int

	fields []sentField
	values []string // of all fields, in their order
}

// sentField is a field of a response that is sent.
type sentField struct {
	name     string
	from, to int  // where its values are
	joins    bool // what others have set stays before it
}

// momentOf returns the header of a response now. It is kept with the response, or with
// the page if that does not stay in this process. Those who have waited for a response share
// it, wherever it stays.
func (s *stored) momentOf(a *asked, e *cache.Entry, st status) *moment {
	age, ttl := int64((s.age+e.Age)/time.Second), int64(st.ttl/time.Second)
	var kept *atomic.Pointer[moment]
	switch {
	case st.collapsed && st == (status{fwd: st.fwd, collapsed: true}):
		kept = &s.forms.waited
	case !st.hit:
	case e.Local:
		kept = &s.forms.moment
	case a.known != nil && len(s.head.text) <= maxKnownHead:
		kept = &a.known.moment
	}
	if kept == nil {
		return s.newMoment(a, age, st)
	}
	if m := kept.Load(); m != nil && m.age == age && m.ttl == ttl && m.fwd == st.fwd && m.cache == a.cache && m.head == s.head && m.length == len(s.body) && m.page == a.page {
		return m
	}
	m := s.newMoment(a, age, st)
	kept.Store(m)
	return m
}

func (s *stored) newMoment(a *asked, age int64, st status) *moment {
	m := new(struct { // in one piece, if it has as few fields as most
		moment
		fields [8]sentField
		values [8]string
	})
	m.moment = moment{
		cache: a.cache, page: a.page, age: age, ttl: int64(st.ttl / time.Second), fwd: st.fwd, head: s.head, length: len(s.body),
		fields: m.fields[:0], values: m.values[:0],
	}
	add := func(name string, joins bool, values ...string) {
		from := len(m.moment.values)
		m.moment.values = append(m.moment.values, values...)
		m.moment.fields = append(m.moment.fields, sentField{name, from, len(m.moment.values), joins})
	}
	joins, before := true, []string(nil) // the members of Cache-Status of others
	for i := range s.head.fields {
		f := &s.head.fields[i]
		switch {
		case f.name == "Vary":
			add(f.name, true, s.head.vary...)
		case f.name == cacheStatus:
			joins, before = f.adds, f.values
		case !a.cache.isOwn(f.name):
			add(f.name, f.adds, f.values...)
		}
	}
	add("Age", false, strconv.FormatInt(age, 10))
	add(cacheStatus, joins, append(slices.Clip(before), a.member(st))...)
	add("Content-Length", false, strconv.Itoa(len(s.body)))
	return &m.moment
}

// knownVariants remembers, of some requests, which variants of a page they have
// selected, as long as the index stays in this process.
type knownVariants struct {
	names []string // of the fields that select, in canonical form

	mu    sync.RWMutex
	byRaw map[string]knownVariant
}

type knownVariant struct{ page, key string }

const (
	maxKnownVariants = 32
	maxKnownFields   = 512 // bytes
)

func newKnownVariants(names []string) *knownVariants {
	k := &knownVariants{names: make([]string, len(names))}
	for i, name := range names {
		k.names[i] = http.CanonicalHeaderKey(name)
	}
	return k
}

// fields appends the fields of h that select a variant to b, to the letter. It
// reports false if they are too long to be remembered.
func (k *knownVariants) fields(b []byte, h http.Header) ([]byte, bool) {
	if k == nil {
		return nil, false
	}
	for _, name := range k.names {
		lines := h[name]
		b = strconv.AppendInt(b, int64(len(lines)), 10)
		for _, line := range lines {
			if len(b)+len(line) > maxKnownFields {
				return nil, false
			}
			b = appendPart(b, line)
		}
	}
	return b, true
}

// get returns the key of the variant.
func (k *knownVariants) get(raw []byte, page string) (string, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	v, ok := k.byRaw[string(raw)]
	return v.key, ok && v.page == page
}

func (k *knownVariants) set(raw []byte, page, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byRaw == nil || len(k.byRaw) >= maxKnownVariants {
		k.byRaw = make(map[string]knownVariant)
	}
	k.byRaw[string(raw)] = knownVariant{page, key}
}
