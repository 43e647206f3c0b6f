//go:build race

package session_test

// raced: the race detector is on, which allocates, too.
const raced = true
