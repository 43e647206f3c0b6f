// Package cache holds an application's own data: read through the cache
// (cache-aside), written through it, with a TTL that cannot be forgotten. However
// many callers on however many servers miss the same key at once, one of them
// loads it, and the others get what it brings.
//
//	engine, err := cache.New(rediscache.New(rdb, nil), &cache.Options{Locker: locker})
//	users, err := cache.For[User](engine, "user", cache.Policy{TTL: time.Hour, NegativeTTL: time.Minute, StaleIfError: 24 * time.Hour})
//
//	u, err := users.Get(ctx, id, db.LoadUser)
//	err = users.Put(ctx, id, u, db.SaveUser)
//
// The parts are
//
//   - a [Store] that keeps the entries, in this process ([NewMemoryStore]) or in
//     Redis and in this process (package rediscache);
//   - a [Locker] (a *lock.Locker is one) that decides which process loads;
//   - an [Engine] that brings the callers of one process together, so that one of
//     them deals with the store for all;
//   - a [Namespace], which is the engine for values of one type under one [Policy],
//     or [Blobs], for values that are too big for memory. Package responsecache is
//     the engine for HTTP responses.
//
// # How a missing key is loaded once
//
// The first caller of a process begins the process's flight, on a context that
// does not end with the caller's, but with that of the last one that waits. It
// tries to take the key's lease. Whoever gets it announces the fill with the
// lease's fencing token ([Store].Begin), loads, and stores ([Store].Fill). Whoever
// does not get it is woken by the fill, or tries again when the lease has ended.
//
// What was loaded is stored only while its announcement stands:
//
//	A takes the lease (token 1), begins, loads … and is stopped
//	                 the lease ends, B takes it (token 2), begins
//	                 B loads and fills: stored
//	A continues and fills with token 1: refused, B's value stays
//
//	A begins, loads the old value
//	                 the value changes, somebody purges the key, or a tag of it
//	A fills: refused, the next caller loads the new value
//
// A load that fails is reported to all who wait for it. It is tried again after
// the policy's Backoff only, or by a process that has not tried yet.
//
// # Stale values
//
// An entry is fresh for its TTL. After that, StaleWhileRevalidate lets callers have
// it while one caller in the cluster loads a new one in the background, and
// StaleIfError lets them have it if loading fails or takes long. A soft purge
// makes entries stale, a hard one removes them.
//
// # What a purge and a Put promise
//
// When Purge, PurgeTags, PurgePrefix or PurgeAll have returned without an error,
// whoever asks in this process gets nothing older. The other processes hear of it
// within milliseconds, and if they are cut off they stop trusting what they have
// at hand within the store's Staleness (one second by default). Loads that began
// before the purge are not kept, also those whose tags are not known yet. Each
// purge costs the same, whatever the number of entries that it reaches.
//
// Put writes the source first. Until it returns, readers may get the old value;
// afterwards the same holds as for a purge. Of Puts of one key that overlap none is
// kept, because nobody knows which one the source has.
//
// What is read from a source that lags behind, such as a replica of a database,
// can be older than a purge: purge when the replica has the change.
//
// # When the store fails
//
// A caller is held up by the store for StoreTimeout (50 ms), and once more if it
// stores what it has loaded. Then one caller at a time of each process and key
// loads, for all that wait there; of Blobs each caller does. After three failures
// in a row a circuit breaker keeps everybody from the store for a second. No value
// is remembered meanwhile. What the others of a process share of such a load can
// be older than a purge by another process.
//
// Purges take up to 2 s, the end of a Put up to 1 s, before they fail, and go on
// without their caller: what is stale must go.
//
// # What is not promised
//
// A lease that is lost while its holder loads lets a second process load as well
// (see package lock); the value stored is right all the same. A caller that has
// waited for WaitTimeout, and every process while the store is out of reach, loads
// for itself, with the others of its process that are in the same position.
package cache
