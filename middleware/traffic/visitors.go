package traffic

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/dchest/siphash"
)

// maxWaiting is how many visitors wait, in memory, for the first salt.
const maxWaiting = 16_384

// visitors turns visitors into hashes that mean nothing without the day's salt.
type visitors struct {
	today, tomorrow atomic.Pointer[daySalt] // tomorrow is known shortly before midnight

	mu      sync.Mutex
	waiting map[string]struct{} // who came before there was a salt
	dropped uint64
}

// daySalt is the key of a day's hashes.
type daySalt struct {
	day    int64
	k0, k1 uint64
}

// newDaySalt makes the key of a salt of any length.
func newDaySalt(day int64, salt []byte) *daySalt {
	sum := sha256.Sum256(salt)
	return &daySalt{day: day, k0: binary.LittleEndian.Uint64(sum[:]), k1: binary.LittleEndian.Uint64(sum[8:])}
}

// hash returns the SipHash-2-4 of a visitor, which says nothing about it, and about other
// visitors' hashes, to who has not got the key.
func (d *daySalt) hash(visitor []byte) uint64 { return siphash.Hash(d.k0, d.k1, visitor) }

// key returns what names a visitor, in buf: short names as they are, long ones as a
// digest. The first byte keeps names apart from addresses.
func (h *Hit) key(buf *[sha256.BlockSize]byte) []byte {
	if h.Visitor == "" {
		if !h.Addr.IsValid() {
			return nil
		}
		a := h.Addr.Unmap().WithZone("")
		if a.Is4() {
			b := a.As4()
			return append(append(buf[:0], 'a'), b[:]...)
		}
		b := a.As16()
		return append(append(buf[:0], 'a'), b[:8]...) // one customer has a /64 at least
	}
	if len(h.Visitor) < sha256.BlockSize {
		return append(append(buf[:0], 's'), h.Visitor...)
	}
	buf[0] = 'l'
	sum := sha256.Sum256([]byte(h.Visitor))
	return append(buf[:1], sum[:]...)
}

// hash returns the hash of a request's visitor, or false if there is none, or no
// salt yet.
func (v *visitors) hash(h *Hit, day int64) (hash uint64, ok bool) {
	var buf [sha256.BlockSize]byte
	key := h.key(&buf)
	if key == nil {
		return 0, false
	}
	if d := v.salt(day); d != nil {
		return d.hash(key), true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.salt(day); d != nil { // it has come, and who waited was let in
		return d.hash(key), true
	}
	if len(v.waiting) >= maxWaiting {
		if _, known := v.waiting[string(key)]; !known {
			v.dropped++
		}
		return 0, false
	}
	if v.waiting == nil {
		v.waiting = make(map[string]struct{})
	}
	v.waiting[string(key)] = struct{}{}
	return 0, false
}

func (v *visitors) salt(day int64) *daySalt {
	if d := v.today.Load(); d != nil && d.day == day {
		return d
	}
	if d := v.tomorrow.Load(); d != nil && d.day == day {
		return d
	}
	return nil
}

// promote reports whether the salt of day is known, and makes it that of today.
func (v *visitors) promote(day int64) bool {
	d := v.salt(day)
	if d != nil {
		v.today.Store(d)
	}
	return d != nil
}

// set takes the salt of a day, and hashes who has waited for it if it is the
// present one.
func (v *visitors) set(d *daySalt, present bool, visit func(hash uint64)) {
	if !present {
		v.tomorrow.Store(d)
		return
	}
	v.today.Store(d)
	v.mu.Lock()
	waiting := v.waiting
	v.waiting = nil
	v.mu.Unlock()
	for key := range waiting {
		visit(d.hash([]byte(key)))
	}
}

// peer returns the address of the other end of the connection.
func peer(remoteAddr string) netip.Addr {
	if p, err := netip.ParseAddrPort(remoteAddr); err == nil {
		return p.Addr()
	}
	a, _ := netip.ParseAddr(remoteAddr)
	return a
}
