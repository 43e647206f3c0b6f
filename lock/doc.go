// Package lock gives out leases: locks across processes that end by themselves
// when their holder dies. A [Locker] works on a [Store]: a [MemoryStore] within
// one process, or package redislock's in Redis.
//
//	err := locker.Do(ctx, "catalogue", 10*time.Second, func(ctx context.Context, token uint64) error {
//		index, err := rebuild(ctx)        // ctx ends when the lease is lost
//		if err != nil {
//			return err
//		}
//		return save(ctx, index, token)    // refuses a token smaller than one it has seen
//	})
//
// Do waits for its turn, so that everybody who calls it runs the function, one after
// the other. For a job that one of many servers is to do, [Locker.TryDo] leaves it
// to the one who has the lease. A lock does not remember that the job is done: a
// server that comes when the first one has finished does it again, unless a mark
// "done for today" says otherwise, as in the example OnceADay of TryDo.
//
// The TTL is not how long the work may take: the lease is renewed every third of
// it until the work is done. It is how long everybody else waits after a holder
// died. A few seconds to a minute are usual.
//
// # Kinds of leases
//
// The leases of a [Locker] are exclusive. [Locker.Shared] returns one for those
// who only read: their leases exclude the exclusive ones, and not one another.
// [Locker.Semaphore] returns one of whose leases n can be held at a time. Each
// lease has its own TTL: the permit of a holder that died comes back by itself.
//
// # Waiting
//
// Whoever waits has a place in the store's queue and is woken when its turn comes.
// Nobody polls, and a release wakes only the one whose turn it is. A store may give it
// the lease in the same step, as redislock does if the TTL is 1.9 s or more. Those who wait
// for the same lease in the same process, from the same Locker and with the same
// TTL, stand in line there: one of them asks the store, and a lease that is
// released is handed on to the next in line without the store, for 25 ms at most,
// before others have their turn. [Locker.Fair] gives that up for the order in
// which the store heard of each.
//
// A waiter whose context ends leaves the queue. One that dies keeps its place, or the
// lease that it is given, for 1.9 s, and delays those behind it for so long at most.
//
// # What a lease promises
//
// As long as the store keeps its data, its clock is not set, and no process is
// paused, no two hold the lease of a name at a time. In detail:
//
//   - The context of a lease ends at the deadline that the store has confirmed
//     last: TTL after the last renewal that was answered was sent, on this
//     process's monotonic clock, less 1 % and 2 ms for clocks of different speed.
//     It needs no answer of the store for that. Nobody else is given the lease
//     before.
//   - A lease that was given to a waiter by the release of the one before is
//     confirmed for what is left of the waiter's place, 1 to 1.9 s, as the waiter
//     could be dead. It is renewed for its whole TTL 50 ms later. Until that is
//     answered, a pause or an outage of more than a second loses it.
//   - A lease that is gone from the store is reported at the next renewal, and
//     never taken again behind the holder's back.
//   - Fencing tokens grow from lease to lease, also when the store has lost its
//     data in between. Those of permits that are held at the same time differ too,
//     but do not fence: an earlier holder of one may be a rightful one.
//   - A holder that dies keeps others out for its TTL at most. A waiter learns of
//     a release by a push; if the push is lost, it asks again after 0.9 s, or when
//     the lease of the holder ends, if that is sooner.
//
// Only the store's clock decides when a lease ends there, and only differences of
// the process's own clock are used here. The clocks need not agree. But Redis counts
// TTLs by its wall clock: if that is set forward, or a replica whose clock is ahead
// takes over, leases end early there by as much, and two can hold one until the
// first one's next renewal; if it is set back they last longer. Let NTP slew the
// clocks of the servers, not step them.
//
// # What no lease can promise
//
// A process can be paused between looking at its context and acting on it: by
// the garbage collector, the scheduler, a page fault, SIGSTOP, a virtual machine
// that is moved. No timer runs meanwhile.
//
//	A: holds the lease, its context is fine
//	A: pauses ............................................... writes
//	B:             the lease ends; acquires it, writes
//
// A's context ends as soon as A runs again, but its write may come first. A
// packet that the network holds back does the same without any pause. And the
// monotonic clock of a machine that is suspended may stand still (on Linux it
// does), so that after it wakes up a context ends late by the time it slept.
//
// So the resource has to take part: every write carries the fencing token, and
// the resource keeps the largest that it has seen and refuses smaller ones. Package
// fence has what a resource needs for that. See Martin Kleppmann, "How to do
// distributed locking" (2016).
// A lease without fencing is good for efficiency, where two doing the same work
// cost time and money but not correctness.
//
// # What Redis cannot promise
//
// Redis replicates after it has answered. In a failover, what the old primary
// had not passed on is lost:
//
//	A:       acquires the lease at the primary, which answers and dies
//	replica: becomes primary, and never heard of A
//	B:       acquires the lease there
//
// Both hold it until A's next renewal, a third of the TTL later at most, tells A
// that it lost the lease, or until A's confirmed deadline if the renewal is not
// answered. The same comes of a restart without persistence (or with appendfsync
// everysec, for the last second), of FLUSHALL, and of a maxmemory policy that
// evicts keys with a TTL. If the old primary is cut off from its replicas but
// still answers A, both hold it for as long as that lasts; min-replicas-to-write
// and min-replicas-max-lag in its configuration bound that.
//
// The tokens of A and B still differ in most of these cases, and B's is larger as
// long as the clock of B's server is not behind by more than the time that went
// by between the two leases: a token is at least the server's clock in
// microseconds, and more than the last token that the server knows. With both the
// last token lost and the clock set back, tokens can repeat. Keep the clocks of
// the servers together with NTP, and do not use this for more than it can do.
//
// A redislock.Quorum has no failover that could lose a lease: it asks several
// servers that know nothing of each other, and counts on a majority. It loses one
// all the same if servers of that majority restart without their data while it is
// held, and it does nothing against pauses. Tokens grow there too.
//
// Where two holders at a time must be impossible and the resource cannot check a
// token (a payment, say, or a machine that moves), use a system that decides by
// consensus: etcd, ZooKeeper or Consul for the lock, or better, a transaction in
// the database that holds the data. Their leases need fencing for pauses as well.
package lock
