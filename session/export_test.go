package session

// TokenFor spells the token of a session and a secret, checksum included, as
// who knows the public default key can.
func TokenFor(id string, secret []byte) string {
	t := tokens{defaultKey, defaultName}
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
