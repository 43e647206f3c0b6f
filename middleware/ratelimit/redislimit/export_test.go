package redislimit

// TakeSource is the script of Take.
var TakeSource = takeSource

// Steps returns the sizes of the steps in which n extra units are taken.
func Steps(n int) []int { return steps(n) }
