//go:build !race

package responsecache_test

const raced = false
