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
	return &sessionContext{ctx, s}
}

// sessionContext is a context with a session under both keys.
type sessionContext struct {
	context.Context //nolint:containedctx // it is one
	session         *Session
}

// Value implements context.Context.
func (c *sessionContext) Value(key any) any {
	switch key := key.(type) {
	case contextKey:
		return c.session
	case managerKey:
		if c.session != nil && key.Manager == c.session.m {
			return c.session
		}
	}
	return c.Context.Value(key)
}
