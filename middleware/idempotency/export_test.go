package idempotency

// Bytes returns how much m holds.
func Bytes(m *MemoryStore) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}
