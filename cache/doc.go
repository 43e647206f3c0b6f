// Package cache holds a cache engine that does not stampede: however many
// callers on however many servers miss the same key at once, one of them
// computes it and the others get what it computed.
//
// The engine stands under package responsecache. It is made of three parts:
//
//   - a [Store] keeps the entries, in this process ([NewMemoryStore]) or in
//     Redis (package rediscache);
//   - a [Locker] (a *lock.Locker is one) decides which process computes;
//   - an [Engine] brings the callers of one process together, so that only
//     one of them asks the Locker, and wakes them all with the outcome.
//
// # How a missing key is computed once
//
// The first caller of a process leads the process's flight. It tries to take
// the key's lease. Whoever gets it announces the fill with the lease's fencing
// token ([Store].Begin), computes, and stores ([Store].Fill). Whoever does not
// get it is woken by the fill, or tries again when the lease has ended.
//
// What was computed is stored only while its announcement stands:
//
//	A takes the lease (token 1), begins, computes … and is stopped
//	                 the lease ends, B takes it (token 2), begins
//	                 B computes and fills: stored
//	A continues and fills with token 1: refused, B's value stays
//
//	A begins, computes the old value
//	                 the value changes, somebody purges the key
//	A fills: refused, the next caller computes the new value
//
// # What is not promised
//
// A lease that is lost while its holder computes lets a second process compute
// as well (see package lock); the value stored is right all the same. A caller
// that has waited for WaitTimeout, and every caller while the store is out of
// reach, computes for itself.
package cache
