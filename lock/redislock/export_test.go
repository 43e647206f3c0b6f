package redislock

// Tag is what stands for a name in its keys.
var Tag = tag
