//go:build !linux

package bench

import "errors"

// canIdle: there is no priority below all others.
const canIdle = false

func leastPriority() error { return errors.New("not on this system") }
