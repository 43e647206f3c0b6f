// Package durations tells numbers of seconds from durations.
package durations

import (
	"fmt"
	"time"
)

// Shortest is the shortest duration that is taken for one. The constant 60 where a
// time.Duration is wanted is 60 ns, and was meant to be a minute; so found are up to 11
// days.
const Shortest = time.Millisecond

// Fault returns what is wrong with d, to stand behind its name, if it is shorter than
// Shortest, and otherwise "". Zero and less are for the caller to judge.
func Fault(d time.Duration) string {
	if d <= 0 || d >= Shortest {
		return ""
	}
	return fmt.Sprintf("is %v: write %d * time.Second for seconds; at least %v is possible", d, int64(d), Shortest)
}
