package session

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// EncryptionKey is a key for Options.Encryption.
type EncryptionKey struct {
	// ID tells the keys apart; it stands in front of each value, in the clear.
	// From 1 to 32 bytes, never used for another key again.
	ID string
	// Key is 32 random bytes.
	Key []byte
}

const (
	maxKeyID   = 32
	cipherKey  = 32 // AES-256
	nonceBytes = 12
	tagBytes   = 16 // of GCM, behind the ciphertext
)

// What the store gets is the encoded value itself, or a frame around it:
//
//	0x00 'h' flags [schema uvarint] [unique 8 bytes] [len(key id) key id nonce ciphertext | value]
//
// No JSON text begins with a zero byte. A value of another codec that does is
// framed, so that none can be taken for a frame.
const (
	frameZero, frameMark = 0x00, 'h'

	flagSchema    = 1 << 0 // a schema version other than 0 follows
	flagUnique    = 1 << 1 // 8 random bytes follow, which make every write different
	flagEncrypted = 1 << 2

	// maxFrame is more than what is in front of a ciphertext, or a value.
	maxFrame = 3 + 10 + 8 + 1 + 255 + nonceBytes
)

var (
	// errUnknownKey is what a value under a key that is not among
	// Options.Encryption is.
	errUnknownKey = errors.New("it is encrypted with a key that is not among Options.Encryption")
	errPlain      = errors.New("it is not encrypted; see Options.AcceptUnencrypted")
	errFrame      = errors.New("its frame is damaged")
)

// vault frames and encrypts values.
type vault struct {
	keys        []EncryptionKey // the first encrypts
	acceptPlain bool
}

// sealer is a vault for the values of one session. It is not safe for
// concurrent use.
type sealer struct {
	vault *vault
	id    string
	aeads map[string]cipher.AEAD // by key id
}

func (v *vault) forSession(id string) sealer { return sealer{vault: v, id: id} }

// content is what a frame holds.
type content struct {
	value  []byte
	schema int
	// aged says that it is not as it would be written today: encrypted with
	// another than the first key, or not at all.
	aged bool
}

// parsed is a frame that was taken apart, not decrypted yet.
type parsed struct {
	schema    int
	encrypted bool
	keyID     string
	body      []byte
}

func parseFrame(stored []byte) (p parsed, err error) {
	if len(stored) == 0 || stored[0] != frameZero {
		return parsed{body: stored}, nil
	}
	if len(stored) < 3 || stored[1] != frameMark {
		return p, errFrame
	}
	flags, rest := stored[2], stored[3:]
	if flags&^(flagSchema|flagUnique|flagEncrypted) != 0 {
		return p, errFrame
	}
	if flags&flagSchema != 0 {
		schema, n := binary.Uvarint(rest)
		if n <= 0 || schema > 1<<31-1 {
			return p, errFrame
		}
		p.schema, rest = int(schema), rest[n:]
	}
	if flags&flagUnique != 0 {
		if len(rest) < 8 {
			return p, errFrame
		}
		rest = rest[8:]
	}
	if flags&flagEncrypted != 0 {
		if len(rest) < 1 || len(rest) < 1+int(rest[0])+nonceBytes {
			return p, errFrame
		}
		p.encrypted, p.keyID, rest = true, string(rest[1:1+int(rest[0])]), rest[1+int(rest[0]):]
	}
	p.body = rest
	return p, nil
}

// readable reports, without decrypting anything, why a stored value can not be
// read by any of the keys.
func (v *vault) readable(stored string) error {
	var p parsed
	if stored != "" && stored[0] == frameZero {
		var err error
		if p, err = parseFrame([]byte(stored[:min(len(stored), maxFrame)])); err != nil {
			return nil //nolint:nilerr // it is damaged, which is no matter of keys
		}
	}
	switch {
	case p.encrypted && !slices.ContainsFunc(v.keys, func(k EncryptionKey) bool { return k.ID == p.keyID }):
		return errUnknownKey
	case !p.encrypted && len(v.keys) > 0 && !v.acceptPlain:
		return errPlain
	}
	return nil
}

// open returns what was sealed under name.
func (s *sealer) open(name string, stored []byte) (content, error) {
	p, err := parseFrame(stored)
	if err != nil {
		return content{}, err
	}
	if !p.encrypted {
		if len(s.vault.keys) > 0 && !s.vault.acceptPlain {
			return content{}, errPlain
		}
		return content{value: p.body, schema: p.schema, aged: len(s.vault.keys) > 0}, nil
	}
	aead, err := s.aead(p.keyID)
	if err != nil {
		return content{}, err
	}
	value, err := aead.Open(nil, p.body[:nonceBytes], p.body[nonceBytes:], s.bound(name, p.schema))
	if err != nil {
		return content{}, fmt.Errorf("it was not written here: %w", err)
	}
	return content{value: value, schema: p.schema, aged: p.keyID != s.vault.keys[0].ID}, nil
}

// mistakable reports whether a value might be taken for a frame.
func mistakable(value []byte) bool { return len(value) > 0 && value[0] == frameZero }

// frameLen returns how much longer than the value is what seal returns for it, without
// unique.
func (v *vault) frameLen(value []byte, schema int) int {
	if len(v.keys) == 0 && schema == 0 && !mistakable(value) {
		return 0
	}
	n := 3
	if schema != 0 {
		var room [binary.MaxVarintLen64]byte
		n += binary.PutUvarint(room[:], uint64(schema)) //nolint:gosec // as in seal
	}
	if len(v.keys) > 0 {
		n += 1 + len(v.keys[0].ID) + nonceBytes + tagBytes
	}
	return n
}

// seal returns what the store gets for a value. With unique no two results are
// alike.
func (s *sealer) seal(name string, value []byte, schema int, unique bool) ([]byte, error) {
	encrypt := len(s.vault.keys) > 0
	unique = unique && !encrypt // a nonce does the same
	if !encrypt && !unique && schema == 0 && !mistakable(value) {
		return value, nil
	}
	frame := []byte{frameZero, frameMark, 0}
	if schema != 0 {
		frame[2] |= flagSchema
		frame = binary.AppendUvarint(frame, uint64(schema)) //nolint:gosec // New checks that it is not negative
	}
	if unique {
		frame[2] |= flagUnique
		frame = append(frame, make([]byte, 8)...)
		rand.Read(frame[len(frame)-8:])
	}
	if !encrypt {
		return append(frame, value...), nil
	}
	id := s.vault.keys[0].ID
	aead, err := s.aead(id)
	if err != nil {
		return nil, err
	}
	frame[2] |= flagEncrypted
	frame = append(frame, byte(len(id)))
	frame = append(frame, id...)
	nonce := make([]byte, nonceBytes)
	rand.Read(nonce)
	frame = append(frame, nonce...)
	return aead.Seal(frame, nonce, value, s.bound(name, schema)), nil
}

// aead returns the cipher of a key for this session. Each session has a key of
// its own, derived from that of the options (RFC 5869), so that random nonces
// never get many enough to meet (NIST SP 800-38D, section 8.3).
func (s *sealer) aead(keyID string) (cipher.AEAD, error) {
	if aead, ok := s.aeads[keyID]; ok {
		return aead, nil
	}
	i := slices.IndexFunc(s.vault.keys, func(k EncryptionKey) bool { return k.ID == keyID })
	if i < 0 {
		return nil, errUnknownKey
	}
	key, err := hkdf.Key(sha256.New, s.vault.keys[i].Key, nil, "herdless session value 1\x00"+s.id, cipherKey)
	if err != nil {
		return nil, err
	}
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if s.aeads == nil {
		s.aeads = make(map[string]cipher.AEAD, 1)
	}
	s.aeads[keyID] = aead
	return aead, nil
}

// bound is what a value is bound to besides its session, which its key is for. One
// that was set aside stays as it was written.
func (s *sealer) bound(name string, schema int) []byte {
	return fmt.Appendf(nil, "%d\x00%s", schema, strings.TrimPrefix(name, setAside))
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// handOver wraps next so that only who has the secret of t can read it, which
// the store has not.
func handOver(t, next token) ([]byte, error) {
	aead, err := handoverCipher(t)
	if err != nil {
		return nil, err
	}
	// The key is used for one secret's successor only; a second rotation from
	// the same secret draws a new nonce.
	nonce := make([]byte, nonceBytes)
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, next.secret[:], []byte(t.id)), nil
}

// takeOver returns the token that was handed over to the holder of t.
func (t tokens) takeOver(from token, handover []byte) (token, error) {
	aead, err := handoverCipher(from)
	if err != nil {
		return token{}, err
	}
	if len(handover) < nonceBytes {
		return token{}, errFrame
	}
	secret, err := aead.Open(nil, handover[:nonceBytes], handover[nonceBytes:], []byte(from.id))
	if err != nil || len(secret) != secretBytes {
		return token{}, errors.Join(errFrame, err)
	}
	return t.of(from.id, [secretBytes]byte(bytes.Clone(secret))), nil
}

func handoverCipher(t token) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, t.secret[:], nil, "herdless session handover 1", cipherKey)
	if err != nil {
		return nil, err
	}
	return newGCM(key)
}
