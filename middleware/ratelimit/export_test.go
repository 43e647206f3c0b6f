package ratelimit

// Len returns how many keys m holds.
func Len(m *MemoryStore) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys.Len()
}
