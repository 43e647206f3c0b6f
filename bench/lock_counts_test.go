package bench

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
)

// counts is what a redis-server says it has done.
type counts struct {
	calls map[string]float64       // by command, those that scripts made too
	busy  map[string]time.Duration // in the command; scripts' time is in the script as well
	cpu   time.Duration
}

// count asks the server. Its own INFO is not among what it returns.
func count(rdb *redis.Client) (counts, error) {
	text, err := rdb.Info(context.Background(), "commandstats", "cpu").Result()
	c := counts{calls: make(map[string]float64), busy: make(map[string]time.Duration)}
	for line := range strings.Lines(text) {
		var calls, value float64
		name, values, _ := strings.Cut(strings.TrimSpace(line), ":")
		command, isCommand := strings.CutPrefix(name, "cmdstat_")
		switch {
		case command == "info":
		case isCommand:
			_, err = fmt.Sscanf(values, "calls=%g,usec=%g", &calls, &value)
			c.calls[command], c.busy[command] = calls, time.Duration(value*1e3)
		case name == "used_cpu_user" || name == "used_cpu_sys":
			value, err = strconv.ParseFloat(values, 64)
			c.cpu += time.Duration(value * 1e9)
		}
		if err != nil {
			return c, fmt.Errorf("INFO says %q: %w", line, err)
		}
	}
	return c, err
}

func mustCount(tb testing.TB, rdb *redis.Client) counts {
	tb.Helper()
	c, err := count(rdb)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// since returns what was done after an earlier count.
func (c counts) since(before counts) counts {
	d := counts{calls: maps.Clone(c.calls), busy: maps.Clone(c.busy), cpu: c.cpu - before.cpu}
	for command := range d.calls {
		d.calls[command] -= before.calls[command]
		d.busy[command] -= before.busy[command]
	}
	return d
}

// clientsOnly are commands that clients send and scripts do not. So is every
// command with a subcommand, such as client|setinfo.
var clientsOnly = []string{
	"auth", "blmove", "blmpop", "blpop", "brpop", "bzmpop", "bzpopmax", "bzpopmin", "eval", "eval_ro", "evalsha", "evalsha_ro",
	"exec", "fcall", "fcall_ro", "hello", "multi", "ping", "psubscribe", "punsubscribe", "quit", "reset", "select",
	"ssubscribe", "subscribe", "sunsubscribe", "unsubscribe", "wait", "waitaof",
}

// sent returns how many commands came from the clients of a contender, called
// how many its scripts made of that, and busy for how long the former ran.
func (c counts) sent(by contender) (sent, called float64, busy time.Duration) {
	for command, n := range c.calls {
		if strings.Contains(command, "|") || slices.Contains(clientsOnly, command) || slices.Contains(by.plain, command) {
			sent += n
			busy += c.busy[command]
		} else {
			called += n
		}
	}
	return sent, called, busy
}

// table prints rows under a title, columns aligned, to the standard output.
type table struct {
	w *tabwriter.Writer
}

func newTable(title string, columns ...string) table {
	fmt.Fprintf(os.Stdout, "\n%s\n", title)
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)}
	t.row(columns...)
	return t
}

func (t table) row(cells ...string) {
	_, _ = io.WriteString(t.w, strings.Join(cells, "\t")+"\t\n")
}

// end prints what is left and a remark under the table.
func (t table) end(remark string) {
	_ = t.w.Flush()
	fmt.Fprintf(os.Stdout, "%s\n\n", remark)
}

// num prints a figure with as many digits as one reads.
func num(f float64) string {
	switch {
	case f >= 100 || f == 0:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case f >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	default:
		return strconv.FormatFloat(f, 'f', 2, 64)
	}
}

// ms prints a time in milliseconds.
func ms(d time.Duration) string { return num(float64(d) / float64(time.Millisecond)) }
