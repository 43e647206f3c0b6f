// Command fencing shows what a fencing token is for: a holder of a lock is paused
// past its lease, another one writes, and the late write of the first is refused.
//
// It needs nothing. With REDIS_URL set, the locks and a second account are in Redis.
package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/fence"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite" // any database does
)

const (
	// The row keeps the token of its last write.
	createTable = `CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, fence BIGINT NOT NULL DEFAULT 0)`
	openAccount = `INSERT INTO accounts (id, balance) VALUES (7, 100)`
	readAccount = `SELECT balance FROM accounts WHERE id = 7`
	// Compares and writes in one step. It affects no row if the token is stale.
	writeAccount = `UPDATE accounts SET balance = ?, fence = ? WHERE id = 7 AND fence <= ?`
)

type account interface {
	read(ctx context.Context) (balance int)
	write(ctx context.Context, balance int, token uint64) error
}

type inSQL struct{ db *sql.DB }

func (a inSQL) read(ctx context.Context) (balance int) {
	check(a.db.QueryRowContext(ctx, readAccount).Scan(&balance))
	return balance
}

func (a inSQL) write(ctx context.Context, balance int, token uint64) error {
	if n := must(must(a.db.ExecContext(ctx, writeAccount, balance, token, token)).RowsAffected()); n == 0 {
		return fence.ErrStale
	}
	return nil
}

type inRedis struct {
	rdb redis.UniversalClient
	key string
}

func (a inRedis) read(ctx context.Context) (balance int) {
	value, _, err := redislock.FencedGet(ctx, a.rdb, a.key)
	check(err)
	return must(strconv.Atoi(value))
}

func (a inRedis) write(ctx context.Context, balance int, token uint64) error {
	return redislock.FencedSet(ctx, a.rdb, a.key, balance, token, time.Hour)
}

func main() {
	ctx := context.Background()
	db := must(sql.Open("sqlite", ":memory:"))
	db.SetMaxOpenConns(1) // in memory, each connection has a database of its own
	must(db.ExecContext(ctx, createTable))
	must(db.ExecContext(ctx, openAccount))
	if os.Getenv("REDIS_URL") == "" {
		show(ctx, "an account in SQL, locks in this process", inSQL{db}, lock.NewMemoryStore())
		return
	}
	rdb := must(redisconn.Open(os.Getenv("REDIS_URL")))
	show(ctx, "an account in SQL, locks in Redis", inSQL{db}, redislock.New(rdb, nil))
	other := inRedis{rdb, "account:" + rand.Text()}
	check(other.write(ctx, 100, 1)) // opens it; the token of any lease is larger
	show(ctx, "an account in Redis, locks in Redis", other, redislock.New(rdb, nil))
}

// show lets two holders of a lock withdraw from an account.
func show(ctx context.Context, title string, a account, locks lock.Store) {
	fmt.Println(title)
	name := "account " + rand.Text() // nobody else's lock
	// As lock.Locker does it, but nobody renews the lease: the process stands still.
	first := must(locks.TryAcquire(ctx, lock.Request{Name: name, Owner: "first", TTL: 300 * time.Millisecond}))
	seen := a.read(ctx)
	fmt.Printf("  first:  acquires the lease, token %d; reads %d; is paused\n", first.Token, seen)

	check(must(lock.New(locks, nil)).Do(ctx, name, 10*time.Second, func(ctx context.Context, token uint64) error {
		balance := a.read(ctx)
		fmt.Printf("  second: acquires the lease after the end of the first one, token %d; reads %d\n", token, balance)
		err := a.write(ctx, balance-20, token)
		fmt.Println("  second: withdraws 20, error:", err)
		return err
	}))

	late := a.write(ctx, seen-10, first.Token)
	fmt.Printf("  first:  goes on and withdraws 10 from the %d it has read, error: %v\n", seen, late)
	if !errors.Is(late, fence.ErrStale) {
		log.Fatal("the late write was not refused")
	}
	fmt.Printf("  The balance is %d. Without the fence it would be %d, and the 20 were never spent.\n", a.read(ctx), seen-10)
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
