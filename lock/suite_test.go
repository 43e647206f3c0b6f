package lock_test

import (
	"testing"

	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/locktest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryStore(t *testing.T) {
	locktest.Run(t, func(*testing.T) lock.Store { return lock.NewMemoryStore() })
}
