package session

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"
)

// A token is what the client holds: the id of the session, a dot, and the
// secret with a checksum behind it, both in unpadded base64url. Its length is
// fixed. The id begins with the place of the session's owner (see Store), or of
// nobody.
//
// The checksum is keyed, so that a token that this Manager never gave out is
// refused without asking the store (with the public default key only a token
// that nobody took the trouble to forge is). It protects the store from noise
// and nothing else: what admits a client is the secret.
const (
	idBytes       = 18
	placeBytes    = 3
	secretBytes   = 32
	checksumBytes = 4

	idLen    = 24 // of idBytes in base64url
	tokenLen = idLen + 1 + 48
)

// encoding refuses padding bits that are not zero: a token has one spelling.
var encoding = base64.RawURLEncoding.Strict()

// defaultKey keys the digest where Options.Key is nil. It is public, and the
// digest is then no more than a hash.
var defaultKey = []byte("herdless session: the public default key")

// token is a parsed or newly made token.
type token struct {
	id     string // public, as it stands in the token
	text   string // the whole token, secret
	secret [secretBytes]byte
	digest Digest
}

// tokens makes and checks tokens under one key. Those of another name are
// nothing to it.
type tokens struct {
	key  []byte
	name string
	macs *sync.Pool // of *mac
}

func newTokens(key []byte, name string) tokens {
	return tokens{key: key, name: name, macs: &sync.Pool{New: func() any { return &mac{hash: hmac.New(sha256.New, key)} }}}
}

// create returns a token with a new id, in the place of owner if that is not
// empty.
func (t tokens) create(owner string) token {
	var raw [idBytes]byte
	rand.Read(raw[:])
	id := encoding.EncodeToString(raw[:])
	if owner != "" {
		id = owner[:placeLen] + id[placeLen:]
	}
	return t.renew(id)
}

// renew returns a token with a new secret for the session called id.
func (t tokens) renew(id string) token {
	var secret [secretBytes]byte
	rand.Read(secret[:])
	return t.of(id, secret)
}

// of returns the token of an id and a secret.
func (t tokens) of(id string, secret [secretBytes]byte) token {
	sum := t.sum(labelChecksum, id, secret[:])
	text := id + "." + encoding.EncodeToString(append(secret[:], sum[:checksumBytes]...))
	return token{id: id, text: text, secret: secret, digest: t.sum(labelDigest, id, secret[:])}
}

// parse returns the token that text is, if it can be one of ours.
func (t tokens) parse(text string) (token, bool) {
	if len(text) != tokenLen || text[idLen] != '.' {
		return token{}, false
	}
	id := text[:idLen]
	var rawID [idBytes]byte
	if n, err := encoding.Decode(rawID[:], []byte(id)); err != nil || n != idBytes {
		return token{}, false
	}
	var raw [secretBytes + checksumBytes]byte
	if n, err := encoding.Decode(raw[:], []byte(text[idLen+1:])); err != nil || n != len(raw) {
		return token{}, false
	}
	secret := [secretBytes]byte(raw[:])
	sum := t.sum(labelChecksum, id, secret[:])
	if !hmac.Equal(sum[:checksumBytes], raw[secretBytes:]) {
		return token{}, false
	}
	return token{id: id, text: text, secret: secret, digest: t.sum(labelDigest, id, secret[:])}, true
}

// owner returns the name by which the store knows user.
func (t tokens) owner(user string) string {
	if user == "" {
		return ""
	}
	sum := t.sum(labelOwner, "", []byte(user))
	return encoding.EncodeToString(sum[:idBytes])
}

// The labels keep the uses of the key apart: the checksum, which the client
// sees, says nothing about the digest, which the store sees.
const (
	labelDigest   = "herdless session digest 2\x00"
	labelChecksum = "herdless session checksum 2\x00"
	labelOwner    = "herdless session owner 2\x00"
)

// sum is a keyed digest, bound to its use, the Manager's name and a session.
func (t tokens) sum(label, id string, data []byte) Digest {
	m, _ := t.macs.Get().(*mac)
	defer t.macs.Put(m)
	m.buf = append(append(append(append(append(m.buf[:0], label...), t.name...), 0), id...), data...)
	m.hash.Reset()
	m.hash.Write(m.buf)
	clear(m.buf) // the secret is in it
	m.buf = m.hash.Sum(m.buf[:0])
	return Digest(m.buf)
}

// mac is an HMAC for using again, because making one takes seven pieces of memory.
type mac struct {
	hash hash.Hash
	buf  []byte
}
