package traffic

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
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

// daySalt is the key of an HMAC, ready for use.
type daySalt struct {
	day          int64
	inner, outer [sha256.BlockSize]byte
}

func newDaySalt(day int64, salt []byte) *daySalt {
	if len(salt) > sha256.BlockSize {
		sum := sha256.Sum256(salt)
		salt = sum[:]
	}
	d := &daySalt{day: day}
	copy(d.inner[:], salt)
	copy(d.outer[:], salt)
	for i := range d.inner {
		d.inner[i] ^= 0x36
		d.outer[i] ^= 0x5c
	}
	return d
}

// hash returns 64 bits of the HMAC-SHA256 (RFC 2104) of a visitor. It does without
// crypto/hmac, which allocates.
func (d *daySalt) hash(visitor []byte) uint64 {
	var block [2 * sha256.BlockSize]byte
	copy(block[:], d.inner[:])
	n := copy(block[sha256.BlockSize:], visitor)
	sum := sha256.Sum256(block[:sha256.BlockSize+n])
	copy(block[:], d.outer[:])
	copy(block[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(block[:sha256.BlockSize+sha256.Size])
	return binary.LittleEndian.Uint64(sum[:])
}

// key returns what names a visitor, in buf: short names as they are, long ones as a
// digest.
func (h *Hit) key(buf *[sha256.BlockSize]byte) []byte {
	if h.Visitor == "" {
		if !h.Addr.IsValid() {
			return nil
		}
		a := h.Addr.Unmap().WithZone("")
		if a.Is4() {
			b := a.As4()
			return append(buf[:0], b[:]...)
		}
		b := a.As16()
		return append(buf[:0], b[:8]...) // one customer has a /64 at least
	}
	if len(h.Visitor) < sha256.BlockSize {
		// The byte keeps names apart from addresses.
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
