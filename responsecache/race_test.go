//go:build race

package responsecache_test

// raced: the race detector is on, which allocates, too.
const raced = true
