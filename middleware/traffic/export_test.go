package traffic

// CacheStatusOf is for tests.
var CacheStatusOf = cacheStatus

// Stopped is closed when the goroutine that flushes has ended.
func (r *Recorder) Stopped() <-chan struct{} { return r.stopped }
