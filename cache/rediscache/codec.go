package rediscache

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/herdless/herdless/cache"
)

// An entry in Redis is
//
//	magic     4 bytes  "hlc1"; another format gets another magic
//	checksum  4 bytes  CRC-32C of all that follows
//	kind      1 byte
//	ttl       8 bytes  milliseconds, as it was stored
//	key size  4 bytes
//	key       the full key, because its place is named by a digest only
//	data      the rest
//
// with integers in big-endian order. Whatever else is found is no entry.
const (
	magic      = "hlc1"
	headerSize = len(magic) + 4 + 1 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns entry as the bytes that Redis keeps under key.
func encode(key string, entry cache.Entry) []byte {
	b := make([]byte, 0, headerSize+len(key)+len(entry.Data))
	b = append(b, magic...)
	b = append(b, 0, 0, 0, 0)
	b = append(b, byte(entry.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(entry.TTL.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	b = append(b, key...)
	b = append(b, entry.Data...)
	binary.BigEndian.PutUint32(b[len(magic):], crc32.Checksum(b[len(magic)+4:], castagnoli))
	return b
}

// decode returns the entry that encode made of key and that has left to live,
// or false if b is anything else. The entry's data is a part of b.
func decode(key string, b []byte, left time.Duration) (cache.Entry, bool) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return cache.Entry{}, false
	}
	rest := b[len(magic):]
	if binary.BigEndian.Uint32(rest) != crc32.Checksum(rest[4:], castagnoli) {
		return cache.Entry{}, false
	}
	kind := cache.Kind(rest[4])
	ttl := time.Duration(binary.BigEndian.Uint64(rest[5:])) * time.Millisecond
	keySize := uint64(binary.BigEndian.Uint32(rest[13:]))
	body := rest[17:]
	if keySize > uint64(len(body)) || string(body[:keySize]) != key || left <= 0 {
		return cache.Entry{}, false
	}
	return cache.Entry{
		Kind: kind,
		Data: body[keySize:],
		TTL:  left,
		Age:  max(0, ttl-left),
	}, true
}
