//go:build !unix

package bench

import "time"

// Other systems only need to compile this package: redis-server does not run
// on them.

func cpuTime() time.Duration { return 0 }
