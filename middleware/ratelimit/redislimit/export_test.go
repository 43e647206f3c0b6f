package redislimit

// TakeSource is the script of Take.
var TakeSource = takeSource
