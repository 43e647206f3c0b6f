package cache

import (
	"context"
	"time"
)

// A Locker gives out leases to one holder at a time across all processes that
// share it. *lock.Locker is one.
type Locker interface {
	// TryDo runs fn while it holds the lease called name, which it keeps
	// renewing every fraction of ttl, and returns fn's error. The context
	// handed to fn ends when the lease is lost. token grows with every lease
	// of the name.
	//
	// If somebody else holds the lease it returns an error without calling
	// fn, and without waiting. That error, or one that it wraps, has a method
	// RetryAfter() time.Duration: when the present holder's lease ends unless
	// it is renewed. Any other error without a call of fn is a fault.
	TryDo(ctx context.Context, name string, ttl time.Duration, fn func(ctx context.Context, token uint64) error) error
}
