package redislimit

// TakeSource and OneSource are the scripts of Take, GiveBackSource that of what it has
// taken in vain.
var TakeSource, OneSource, GiveBackSource = takeSource, oneSource, giveBackSource

// Steps returns the sizes of the steps in which n extra units are taken.
func Steps(n int) []int { return steps(n) }

// Asked is what one.lua is told.
var Asked = asked

// Numbers and Owed read the answers of take.lua and of one.lua.
var Numbers, Owed = numbers, owed
