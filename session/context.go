package session

import "context"

type contextKey struct{}

// managerKey is for the session of one Manager, where there are several.
type managerKey struct{ *Manager }

// FromContext returns the session of the context, that of the innermost Manager
// if there are several, or nil if no Manager's Handler is around.
func FromContext(ctx context.Context) *Session {
	s, _ := ctx.Value(contextKey{}).(*Session)
	return s
}

// Session returns the session of m in the context, or nil if m's Handler is not
// around. It is for programs with several Managers; others have FromContext.
func (m *Manager) Session(ctx context.Context) *Session {
	s, _ := ctx.Value(managerKey{m}).(*Session)
	return s
}

// NewContext returns a context that holds s, for adapters and tests.
func NewContext(ctx context.Context, s *Session) context.Context {
	if s != nil {
		ctx = context.WithValue(ctx, managerKey{s.m}, s)
	}
	return context.WithValue(ctx, contextKey{}, s)
}
