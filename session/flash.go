package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// A Flash is a message for the next page, such as "saved".
type Flash struct {
	Kind string `json:"k,omitempty"` // such as "error"; the program's own
	Text string `json:"t"`
}

const flashPrefix = reserved + "flash" + reserved

// AddFlash keeps a message until Flashes is called, which may be in a later
// request. Each message is a value of its own: none is lost where requests
// overlap.
func (s *Session) AddFlash(ctx context.Context, kind, text string) error {
	data, err := JSON.Marshal(Flash{kind, text})
	if err != nil {
		return fmt.Errorf("session: the message cannot be encoded: %w", err)
	}
	if err := s.lock(ctx, true); err != nil {
		return err
	}
	defer s.mu.Unlock()
	return s.put(ctx, flashPrefix+sortable(), data)
}

// Flashes returns the messages, the oldest first, and removes them.
func (s *Session) Flashes(ctx context.Context) ([]Flash, error) {
	if err := s.lock(ctx, false); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var flashes []Flash
	for _, name := range s.names(func(name string) bool { return strings.HasPrefix(name, flashPrefix) }) {
		if s.down != nil {
			break // it could not be removed
		}
		var f Flash
		found, err := s.decode(ctx, name, &f, JSON)
		if err != nil {
			return nil, err
		}
		if found {
			flashes = append(flashes, f)
		}
		s.remove(name)
	}
	return flashes, nil
}

// sortable returns a name that sorts behind those given out before, as far as
// the clocks of the servers agree.
func sortable() string {
	var random [8]byte
	rand.Read(random[:])
	return fmt.Sprintf("%016x%s", time.Now().UnixNano(), hex.EncodeToString(random[:]))
}
