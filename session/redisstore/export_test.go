package redisstore

// ParseHash returns the names and values of an answer to HGETALL.
func ParseHash(raw []byte) (names []string, values [][]byte, ok bool) {
	h, ok := parseHash(raw)
	names, values = make([]string, len(h)), make([][]byte, len(h))
	for i, f := range h {
		names[i], values[i] = f.name, f.value
	}
	return names, values, ok
}
