// Package fence is the other half of a fencing token: what a resource does with
// the tokens that come with its writes.
//
// A lease of package lock cannot keep a holder from writing late, after a pause
// or a slow network (see there). So every write carries the token of its lease,
// and the resource refuses a token smaller than the largest that it has seen.
// Equal is fine: one holder writes many times. Tokens grow from lease to lease of
// one name; they are the microseconds of a server's clock, about 1.8e15.
//
// Comparing and writing must be one step. A check that is followed by a write is
// no protection:
//
//	A: token 33 is checked .............................. writes
//	B:                      token 34 is checked, writes
//
// So there is no Check here. [Guard.Do] does both under one mutex, for a resource
// within one process; SQL does both in one statement; package redislock does both
// in one script (FencedSet). [SetHeader] and [Require] carry tokens between two
// services.
//
// # In SQL
//
// The token is kept in the row that it guards:
//
//	ALTER TABLE accounts ADD COLUMN fence BIGINT NOT NULL DEFAULT 0
//
//	UPDATE accounts SET balance = ?, fence = ? WHERE id = ? AND fence <= ?
//
// with the token for both fences (PostgreSQL has $1, $2, … for ?). A signed BIGINT
// is large enough until the year 294247, and database/sql refuses what is larger.
// If no row was affected, the token is stale, or there is no such row; nothing was
// written either way:
//
//	result, err := db.ExecContext(ctx, update, balance, token, id, token)
//	if err != nil {
//		return err
//	}
//	if n, err := result.RowsAffected(); err != nil {
//		return err
//	} else if n == 0 {
//		return fence.ErrStale
//	}
//
// To create the row or change it, in PostgreSQL and SQLite:
//
//	INSERT INTO accounts (id, balance, fence) VALUES (?, ?, ?)
//	ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, fence = excluded.fence
//	WHERE accounts.fence <= excluded.fence
//
// MySQL has no such WHERE. There, INSERT IGNORE the row with a fence of 0, and
// then UPDATE it as above.
//
// Isolation: one statement is enough under READ COMMITTED, the default of
// PostgreSQL. Of two that meet at a row, the second waits for the first to commit
// and looks at its own WHERE again, at the new row. Under REPEATABLE READ and
// SERIALIZABLE, PostgreSQL fails the second with SQLSTATE 40001 instead: run the
// transaction again, with the same token. MySQL's REPEATABLE READ compares an
// UPDATE with the newest row, as it must. A SELECT of the fence, and then an UPDATE
// without the WHERE, is the race from above under both defaults.
//
// MySQL counts changed rows where others count those that the WHERE found, so
// that a holder who writes the same values twice is told 0. With
// clientFoundRows=true, in the DSN of github.com/go-sql-driver/mysql, it counts
// what was found (CLIENT_FOUND_ROWS).
//
// # What to watch for
//
// One fence guards one row, or key. If a lease stands for several that must agree,
// a late writer is refused only where its successor has been already:
//
//	A (33): pauses ........................ writes row 2, where B has not been
//	B (34):          writes row 1
//
// Give them one fence: a row of its own that every transaction updates first. The
// lock on that row then holds others up until the transaction ends.
//
//	UPDATE fences SET token = ? WHERE resource = 'accounts' AND token <= ?
//
// The same goes for who reads, computes and writes. Until the new holder has
// written, a late write of its predecessor is let in, and if it comes after the
// new holder's read, it is overwritten unseen. Raise the fence before you read.
//
// What removes the data removes the memory of its token, and a late writer may
// create it anew: mark rows as deleted, or keep fences in a table of their own.
//
// One resource has one lock. Tokens of leases of different names, or of different
// stores, say nothing about who came later. If the leases move to a server whose
// clock is behind, writes are refused until it has caught up.
//
// A token is no secret and no credential. Who sends 2^64-1 locks out everybody
// after him, so let only those send tokens who may write.
//
// # When not to use it
//
// Holders of permits (of a semaphore, or of a lock for readers) are there at the
// same time, each rightly. "The largest token seen" would refuse all but the
// latest. Fence each permit's own resource, if it has one, or nothing.
//
// Where a write can say what it was computed from (WHERE version = ?, If-Match),
// that alone finds every conflict, and a lock is only for efficiency. Where all
// of the data is in one database, its transactions do without lease and token.
// Where nothing can be compared (an email, a payment), fencing is not possible; an
// idempotency key makes doing it twice harmless.
//
// The idea is from Martin Kleppmann, "How to do distributed locking" (2016).
package fence
