// Command cacheproxy is a caching reverse proxy for any HTTP origin. As many of
// them as you like share what they store, if they are given the same Redis.
//
//	go run ./examples/cacheproxy -origin http://127.0.0.1:8000
//	go run ./examples/cacheproxy -origin http://127.0.0.1:8000 -redis redis://127.0.0.1:6379
//	go run ./examples/cacheproxy -h
//
// With a secret in the environment, those who know it can purge pages:
//
//	CACHEPROXY_PURGE_TOKEN=secret go run ./examples/cacheproxy -origin http://127.0.0.1:8000
//	curl -X PURGE -H 'Authorization: Bearer secret' http://127.0.0.1:8080/page
//	curl -X PURGE -H 'Authorization: Bearer secret' -H 'Cache-Tag: news, home' http://127.0.0.1:8080
//
// With Soft-Purge: 1 they become stale instead of being removed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program. It returns the exit code: 0 after a signal, 1 if the
// program could not start or broke, 2 if it was called wrongly.
func run(args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "cacheproxy:", oneLine(err))
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	redis.SetLogger(redisLog{log})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := serve(ctx, c, log, stdout); err != nil {
		_, _ = fmt.Fprintln(stderr, "cacheproxy:", oneLine(err))
		return 1
	}
	return 0
}

func serve(ctx context.Context, c *config, log *slog.Logger, stdout io.Writer) (err error) {
	handler, closeStores, err := newProxy(c, log) //nolint:contextcheck // what the cache does by itself has no request
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStores()) }()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           accessLog(handler, log),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	_, _ = fmt.Fprintf(stdout, "herdless cacheproxy: http://%s for %s (%s, %s, %s)\n", listener.Addr(), c.origin, c.profile, c.router, c.where())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.drain)
	defer cancel()
	if err := server.Shutdown(drain); err == nil {
		return nil
	}
	log.WarnContext(ctx, "requests that are still under way are cut off", "after", c.drain)
	return server.Close()
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// redisLog takes what go-redis has to say by itself. The stores return the same faults
// as errors, which the cache tells of, so here they are details: ten lines a second
// while Redis is away.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, args...))
}
