package session

// TokenFor spells the token of a session and a secret, checksum included, as
// who knows the public default key can.
func TokenFor(id string, secret []byte) string {
	t := newTokens(defaultKey, defaultName)
	sum := t.sum(labelChecksum, id, secret)
	return id + "." + encoding.EncodeToString(append(secret[:len(secret):len(secret)], sum[:checksumBytes]...))
}

// SecretOf returns the secret of a well-formed token.
func SecretOf(token string) []byte {
	raw, err := encoding.DecodeString(token[idLen+1:])
	if err != nil {
		panic(err)
	}
	return raw[:secretBytes]
}

// Vault frames and encrypts values of one session.
type Vault struct{ sealer sealer }

// NewVault returns that of the session called id under the keys.
func NewVault(id string, keys ...EncryptionKey) Vault {
	s := (&vault{keys: keys}).forSession(id)
	return Vault{s}
}

func (v Vault) Seal(name string, value []byte, schema int, unique bool) ([]byte, error) {
	return v.sealer.seal(name, value, schema, unique)
}

func (v Vault) Open(name string, stored []byte) (value []byte, schema int, err error) {
	_ = v.sealer.vault.readable(string(stored))
	c, err := v.sealer.open(name, stored)
	return c.value, c.schema, err
}
