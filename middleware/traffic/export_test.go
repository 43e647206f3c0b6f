package traffic

// CacheStatusOf is for tests.
var CacheStatusOf = cacheStatus
