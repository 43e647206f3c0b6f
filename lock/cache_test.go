package lock_test

import (
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/lock"
)

// Package cache declares what it needs of a locker and does not import this one.
var _ cache.Locker = (*lock.Locker)(nil)
