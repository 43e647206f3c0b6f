// Package reqbound marks requests whose handlers run within the request only, as
// those of frameworks with pooled contexts do. A middleware that would run its next
// in the background must not do so for them.
package reqbound

import "context"

type key struct{}

// Mark returns a copy of ctx that is marked.
func Mark(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, true) }

// Is reports whether ctx is marked.
func Is(ctx context.Context) bool { return ctx.Value(key{}) != nil }
