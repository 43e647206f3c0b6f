// Command webapp is a small shop, on as many nodes as you like, that share
// their sessions, cached pages, locks and rate limits through herdless.
//
//	go run ./examples/webapp                                  three nodes, no Redis
//	go run ./examples/webapp -redis redis://127.0.0.1:6379    the same on Redis
//	go run ./examples/webapp -h                               everything else
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

func main() {
	os.Exit(run(os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run is the program. It returns the exit code: 0 after a signal, 1 if the
// program could not start or broke, 2 if it was called wrongly.
func run(args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	c, err := parse(args, env, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "webapp:", oneLine(err))
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	slog.SetDefault(log)
	redis.SetLogger(redisLog{log})

	// From here on a first signal means to end in good order, and a second one
	// to end at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	if c.healthcheck != "" {
		err = healthcheck(ctx, c.healthcheck)
	} else {
		err = serve(ctx, c, log, stdout)
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "webapp:", oneLine(err))
		return 1
	}
	return 0
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
