package main_test

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	_ "modernc.org/sqlite"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

func TestFencing(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "fencing")
	if out, err := exec.Command("go", "build", "-race", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const story = `  first:  acquires the lease, token (\d+); reads 100; is paused
  second: acquires the lease after the end of the first one, token (\d+); reads 100
  second: withdraws 20, error: <nil>
  first:  goes on and withdraws 10 from the 100 it has read, error: .*stale token.*
  The balance is 80\. Without the fence it would be 90, .*
`
	for _, tt := range []struct{ name, redis, says string }{
		{"nothing installed", "", "an account in SQL, locks in this process\n" + story},
		{
			"on Redis", redistest.Standalone(t).URL(),
			"an account in SQL, locks in Redis\n" + story + "an account in Redis, locks in Redis\n" + story,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(binary)
			cmd.Env = []string{"REDIS_URL=" + tt.redis}
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v, after saying:\n%s", err, out)
			}
			tokens := regexp.MustCompile("^" + tt.says + "$").FindSubmatch(out)
			if tokens == nil {
				t.Fatalf("it says:\n%s\nwant:\n%s", out, tt.says)
			}
			for tokens = tokens[1:]; len(tokens) > 0; tokens = tokens[2:] {
				if first, second := string(tokens[0]), string(tokens[1]); len(first) != len(second) || first >= second {
					t.Errorf("the tokens are %s and %s, want them to grow", first, second)
				}
			}
		})
	}
	t.Run("Redis is not there", func(t *testing.T) {
		cmd := exec.Command(binary)
		cmd.Env = []string{"REDIS_URL=redis://127.0.0.1:1"}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "refused") || strings.Contains(string(out), "goroutine ") {
			t.Errorf("%v, it says %s", err, out)
		}
	})
}

// TestTheSQLOfPackageFence runs the statements that the documentation of package
// fence shows.
func TestTheSQLOfPackageFence(t *testing.T) {
	doc, err := os.ReadFile("../../lock/fence/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	statement := func(begin string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^//\t(` + regexp.QuoteMeta(begin) + `.*(?:\n//\t.*)*)`).FindSubmatch(doc)
		if m == nil {
			t.Fatalf("no %s in the documentation", begin)
		}
		return strings.ReplaceAll(string(m[1]), "\n//\t", "\n")
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx := t.Context()
	affects := func(want int64, statement string, args ...any) {
		t.Helper()
		result, err := db.ExecContext(ctx, statement, args...)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		if got, err := result.RowsAffected(); got != want || err != nil {
			t.Errorf("%s %v: affected %d, %v, want %d", statement, args, got, err, want)
		}
	}
	stands := func(balance, token int) {
		t.Helper()
		var b, f int
		if err := db.QueryRowContext(ctx, `SELECT balance, fence FROM accounts WHERE id = 7`).Scan(&b, &f); err != nil || b != balance || f != token {
			t.Errorf("balance %d of token %d, %v, want %d of %d", b, f, err, balance, token)
		}
	}
	for _, s := range []string{
		`CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER)`, `INSERT INTO accounts VALUES (7, 100)`, statement("ALTER TABLE accounts"),
		`CREATE TABLE fences (resource TEXT PRIMARY KEY, token BIGINT NOT NULL DEFAULT 0)`, `INSERT INTO fences (resource) VALUES ('accounts')`,
	} {
		if _, err := db.ExecContext(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	const year294247 = int64(1<<63 - 1) // in microseconds

	update := statement("UPDATE accounts")
	stands(100, 0)
	affects(1, update, 90, 33, 7, 33)
	affects(1, update, 80, 33, 7, 33)
	affects(1, update, 80, 33, 7, 33) // MySQL says 0
	affects(1, update, 70, 34, 7, 34)
	affects(0, update, 60, 33, 7, 33)
	affects(0, update, 60, 35, 8, 35)
	stands(70, 34)

	upsert := statement("INSERT INTO accounts")
	affects(0, upsert, 7, 60, 33)
	stands(70, 34)
	affects(1, upsert, 7, 60, 34)
	affects(1, upsert, 7, 50, 35)
	affects(1, upsert, 8, 1, 1)
	stands(50, 35)
	affects(1, update, 40, year294247, 7, year294247)
	affects(0, update, 30, 36, 7, 36)

	one := statement("UPDATE fences")
	affects(1, one, 34, 34)
	affects(0, one, 33, 33)

	// A token that does not fit is an error, not a negative number.
	if _, err := db.ExecContext(ctx, update, 0, uint64(1)<<63, 7, uint64(1)<<63); err == nil {
		t.Error("a token of 2^63 was taken")
	}
}
