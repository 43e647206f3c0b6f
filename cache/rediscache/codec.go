package rediscache

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/klauspost/compress/zstd"
)

// An entry in Redis is
//
//	offset  bytes
//	0       4      magic "hlc3"; another format gets another magic
//	4       1      state: see below. Scripts change it, so it is not checked
//	5       4      CRC-32C of all that follows the next 16 bytes
//	9       8      when it ends, in milliseconds of the server's clock, as a double. A script puts it in
//	17      8      the same once more, because it is not checked otherwise
//	25      1      kind
//	26      1      flags: 1 if the data is compressed with zstd
//	27      4      schema
//	31      8      for how long it is fresh, in milliseconds
//	39      8      for how long it is kept, in milliseconds
//	47      8      cost in microseconds
//	55      8      epoch in which it began
//	63      8      token it was filled or written under
//	71      16     id of the data's chunks, random even if there are none
//	87      4      how many there are; zero if the data stands in the entry
//	91      16     id of the body's chunks
//	107     4      how many there are
//	111     8      size of the body
//	119     2      how many tags
//	121     4      size of the key
//	125     8      size of the data
//	133     8      size of the data as stored
//	141     8 each hashes of the tags
//	               the full key, because its place is named by a digest only
//	               the data as stored, unless it is in chunks
//
// with integers in big-endian order. The scripts know the offsets up to 119, too.
// Whatever else is found is no entry.
const (
	magic      = "hlc3"
	headerSize = 141
	checkedAt  = 25 // what the checksum is of begins there

	compressed = 1 // a flag

	// maxData is the largest data that is taken: that of a string of Redis.
	maxData = 512 << 20

	maxTags = 1_000
)

// The states of an entry. Any two differ in two bits at least.
const (
	stateFresh       = 'f' // as it was stored
	stateSoft        = 's' // a soft purge has reached it
	stateLimited     = 'l' // filled during a write, for whileWritten
	stateLimitedSoft = 'z' // both
)

// whileWritten is how long an entry lives that is filled while a write is under
// way.
const whileWritten = time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// id names the chunks of one value.
type id [16]byte

func newID() id {
	var i id
	_, _ = rand.Read(i[:]) // never fails
	return i
}

// stored is an entry as it is in Redis.
type stored struct {
	cache.Entry
	total   time.Duration // for how long it is kept
	ends    float64       // of an entry that was read: in milliseconds of the server's clock
	epoch   uint64
	token   uint64
	tags    []uint64 // of an entry that was read: see hashes
	rawTags []byte
	dataID  id
	chunks  uint32 // of the data
	flags   byte
	size    uint64 // of the data as stored
	rawSize uint64
	inline  []byte // the data as stored, if there are no chunks
}

// newStored returns entry as it is to be stored, and its data as it goes into
// chunks if it is too long to stand in the entry.
func (s *Store) newStored(t cache.Ticket, entry cache.Entry) (stored, []byte, error) {
	if len(entry.Data) > maxData {
		return stored{}, nil, fmt.Errorf("the data has %d bytes, it must not have more than %d", len(entry.Data), maxData)
	}
	if _, _, err := parseBody(entry.Body); err != nil {
		return stored{}, nil, err
	}
	fresh := max(1, entry.TTL.Milliseconds())
	e := stored{
		Entry: entry, epoch: t.Epoch, token: t.Token, tags: purges.Hashes(entry.Tags),
		total:  milliseconds(uint64(fresh + max(0, entry.StaleFor.Milliseconds()))),
		dataID: newID(), rawSize: uint64(len(entry.Data)), inline: entry.Data,
	}
	e.TTL = time.Duration(fresh) * time.Millisecond
	if s.compressAbove >= 0 && len(entry.Data) > s.compressAbove {
		if small := compressor().EncodeAll(entry.Data, nil); len(small) < len(entry.Data) {
			e.inline, e.flags = small, compressed
		}
	}
	e.size = uint64(len(e.inline))
	if len(e.inline) <= s.chunkBytes {
		return e, nil, nil
	}
	chunked := e.inline
	e.inline = nil
	e.chunks = uint32((len(chunked) + s.chunkBytes - 1) / s.chunkBytes)
	return e, chunked, nil
}

// encode returns the bytes that Redis keeps under key.
func (e *stored) encode(key string) []byte {
	bodyID, bodyChunks, _ := parseBody(e.Body)
	b := make([]byte, 0, headerSize+8*len(e.tags)+len(key)+len(e.inline))
	b = append(b, magic...)
	b = append(b, stateFresh)
	b = append(b, make([]byte, checkedAt-5)...)
	b = append(b, byte(e.Kind), e.flags)
	b = binary.BigEndian.AppendUint32(b, e.Schema)
	b = binary.BigEndian.AppendUint64(b, uint64(e.TTL.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.total.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(max(0, e.Cost.Microseconds())))
	b = binary.BigEndian.AppendUint64(b, e.epoch)
	b = binary.BigEndian.AppendUint64(b, e.token)
	b = append(b, e.dataID[:]...)
	b = binary.BigEndian.AppendUint32(b, e.chunks)
	b = append(b, bodyID[:]...)
	b = binary.BigEndian.AppendUint32(b, bodyChunks)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Body.Size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.tags)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	b = binary.BigEndian.AppendUint64(b, e.rawSize)
	b = binary.BigEndian.AppendUint64(b, e.size)
	for _, tag := range e.tags {
		b = binary.BigEndian.AppendUint64(b, tag)
	}
	b = append(b, key...)
	b = append(b, e.inline...)
	binary.BigEndian.PutUint32(b[5:], crc32.Checksum(b[checkedAt:], castagnoli))
	return b
}

// decode returns the entry that encode made of key, or false if b is anything
// else. What it returns has neither data nor times yet. It refers to b.
func decode(key string, b []byte) (stored, bool) {
	if len(b) < headerSize || string(b[:4]) != magic || !isState(b[4]) {
		return stored{}, false
	}
	if string(b[9:17]) != string(b[17:25]) || binary.BigEndian.Uint32(b[5:]) != crc32.Checksum(b[checkedAt:], castagnoli) {
		return stored{}, false
	}
	e := stored{
		flags:   b[26],
		total:   milliseconds(binary.BigEndian.Uint64(b[39:])),
		epoch:   binary.BigEndian.Uint64(b[55:]),
		token:   binary.BigEndian.Uint64(b[63:]),
		dataID:  id(b[71:87]),
		chunks:  binary.BigEndian.Uint32(b[87:]),
		rawSize: binary.BigEndian.Uint64(b[125:]),
		ends:    math.Float64frombits(binary.BigEndian.Uint64(b[9:])),
		size:    binary.BigEndian.Uint64(b[133:]),
	}
	e.Kind = cache.Kind(b[25])
	e.Schema = binary.BigEndian.Uint32(b[27:])
	e.TTL = milliseconds(binary.BigEndian.Uint64(b[31:]))
	e.Cost = time.Duration(min(binary.BigEndian.Uint64(b[47:]), math.MaxInt64/1000)) * time.Microsecond
	e.Body = bodyOf(id(b[91:107]), binary.BigEndian.Uint32(b[107:]), binary.BigEndian.Uint64(b[111:]))
	e.Version = versionOf(b)

	tags, keySize, rest := uint64(binary.BigEndian.Uint16(b[119:])), uint64(binary.BigEndian.Uint32(b[121:])), b[headerSize:]
	inline := e.size
	if e.chunks > 0 {
		inline = 0
	}
	switch {
	case e.Kind < cache.Value || e.Kind > cache.Negative || e.flags > compressed || tags > maxTags,
		e.size > maxData || e.rawSize > maxData || uint64(e.chunks) > e.size,
		e.flags == 0 && e.size != e.rawSize,
		e.TTL > e.total,
		uint64(len(rest)) != 8*tags+keySize+inline:
		return stored{}, false
	}
	e.rawTags, rest = rest[:8*tags], rest[8*tags:]
	if string(rest[:keySize]) != key {
		return stored{}, false
	}
	e.inline = rest[keySize:]
	switch b[4] {
	case stateLimited, stateLimitedSoft:
		e.limit()
	}
	return e, true
}

// hashes returns the tags. Of an entry that was read they are seldom wanted.
func (e *stored) hashes() []uint64 {
	if e.tags == nil && len(e.rawTags) > 0 {
		e.tags = make([]uint64, len(e.rawTags)/8)
		for i := range e.tags {
			e.tags[i] = binary.BigEndian.Uint64(e.rawTags[8*i:])
		}
	}
	return e.tags
}

// limit is what the script does to an entry that is filled during a write.
func (e *stored) limit() {
	e.TTL, e.total = min(e.TTL, whileWritten), min(e.total, whileWritten)
}

// unpack turns the data as stored into the entry's data.
func (e *stored) unpack(data []byte) bool {
	switch {
	case uint64(len(data)) != e.size:
		return false
	case e.flags&compressed == 0:
		e.Data = data
		return true
	}
	raw, err := decompressor().DecodeAll(data, make([]byte, 0, e.rawSize)) // and no further
	e.Data = raw
	return err == nil && uint64(len(raw)) == e.rawSize
}

// since sets the times of an entry that has left to live, and whether it is stale
// although its time has not come.
func (e *stored) since(left time.Duration, stale bool) {
	left = min(left, e.total)
	e.Age = e.total - left
	e.TTL -= e.Age
	if stale {
		e.TTL = min(e.TTL, 0)
	}
	e.StaleFor = left - e.TTL
}

func isState(b byte) bool {
	return b == stateFresh || b == stateSoft || b == stateLimited || b == stateLimitedSoft
}

// isSoft reports that a soft purge has reached the entry of that version.
func isSoft(version uint64) bool {
	state := byte(version >> 32)
	return state == stateSoft || state == stateLimitedSoft
}

// versionBytes are the state and the checksum in b, or what there is instead.
func versionBytes(b []byte) []byte { return b[min(4, len(b)):min(9, len(b))] }

// versionOf returns them as a number. No state is zero, so that it never is.
func versionOf(b []byte) uint64 {
	return uint64(b[4])<<32 | uint64(binary.BigEndian.Uint32(b[5:]))
}

// withState returns the version of the same entry in another state.
func withState(version uint64, state byte) uint64 {
	return uint64(state)<<32 | uint64(uint32(version))
}

// seenBytes is the reverse of versionOf.
func seenBytes(version uint64) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(version >> 32)}, uint32(version))
}

// bodyOf and parseBody turn a body's chunks into its name and back.
func bodyOf(i id, chunks uint32, size uint64) cache.Body {
	if i == (id{}) {
		return cache.Body{}
	}
	return cache.Body{ID: fmt.Sprintf("%x.%d", i, chunks), Size: int64(min(size, math.MaxInt64))}
}

func parseBody(b cache.Body) (id, uint32, error) {
	if b.ID == "" {
		return id{}, 0, nil
	}
	name, count, _ := strings.Cut(b.ID, ".")
	raw, err := hex.DecodeString(name)
	chunks, err2 := strconv.ParseUint(count, 10, 32)
	if err != nil || err2 != nil || len(raw) != len(id{}) || b.Size < 0 || chunks > uint64(b.Size) {
		return id{}, 0, errors.New("the body was not created by a Store of this package")
	}
	return id(raw), uint32(chunks), nil
}

// milliseconds returns n milliseconds, or the longest duration.
func milliseconds(n uint64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}

// compressor and decompressor start no goroutines and are safe for concurrent use.
var (
	compressor = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
		if err != nil {
			panic(err) // the options are wrong
		}
		return e
	})
	decompressor = sync.OnceValue(func() *zstd.Decoder {
		// The stored size bounds what a few hostile bytes can become.
		d, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderConcurrency(0))
		if err != nil {
			panic(err)
		}
		return d
	})
)
