package fence_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/herdless/herdless/lock/fence"
)

// A file, a map or a machine that this process alone writes to.
func ExampleGuard() {
	var guard fence.Guard
	var report string
	write := func(token uint64, text string) error {
		return guard.Do(token, func() error {
			report = text
			return nil
		})
	}
	fmt.Println(write(33, "by the first holder"))
	fmt.Println(write(34, "by the second"))
	fmt.Println(write(33, "late"))
	fmt.Println(report)
	// Output:
	// <nil>
	// <nil>
	// fence: stale token 33: a holder with token 34 has been here
	// by the second
}

// The resource belongs to another service, which is told the token in a header.
func ExampleRequire() {
	var guard fence.Guard
	ledger := httptest.NewServer(fence.Require(func(_ http.ResponseWriter, r *http.Request, token uint64) error {
		text, err := io.ReadAll(r.Body) // before, as a slow client must not hold others up
		if err != nil {
			return err
		}
		return guard.Do(token, func() error {
			fmt.Printf("the ledger: %s\n", text)
			return nil
		})
	}))
	defer ledger.Close()

	put := func(token uint64, text string) {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodPut, ledger.URL, strings.NewReader(text))
		if err != nil {
			log.Fatal(err)
		}
		fence.SetHeader(r.Header, token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	put(34, "second")
	put(33, "first")
	// Output:
	// the ledger: second
	// 200 OK
	// 409 Conflict
}

// The resource is a row in a database, in a table that was made with
//
//	fence BIGINT NOT NULL DEFAULT 0
func Example_sql() {
	setBalance := func(ctx context.Context, db *sql.DB, id, balance int, token uint64) error {
		result, err := db.ExecContext(ctx,
			`UPDATE accounts SET balance = ?, fence = ? WHERE id = ? AND fence <= ?`, balance, token, id, token)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fence.ErrStale // or there is no such account
		}
		return nil
	}
	_ = setBalance // within Do of a lock.Locker, which has the token
}
