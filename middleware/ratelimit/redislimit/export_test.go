package redislimit

// TakeSource and OneSource are the scripts of Take.
var TakeSource, OneSource = takeSource, oneSource

// Steps returns the sizes of the steps in which n extra units are taken.
func Steps(n int) []int { return steps(n) }
