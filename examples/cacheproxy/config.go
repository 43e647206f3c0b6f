package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/herdless/herdless/responsecache"
)

// config is what the command line says.
type config struct {
	listen  string
	origin  *url.URL
	redis   string
	profile string
	router  string
	maxBody int
	maxSize int
	drain   time.Duration
	// purgeToken is the secret of those who may purge. Empty: nobody may.
	purgeToken string
}

// purgeTokenVar is the variable of the environment that has the token if the flag
// has not: a process list shows flags to everybody on the machine.
const purgeTokenVar = "CACHEPROXY_PURGE_TOKEN" //nolint:gosec // its name

func parse(args []string, stderr io.Writer) (*config, error) {
	c := &config{}
	var origin string
	f := flag.NewFlagSet("cacheproxy", flag.ContinueOnError)
	f.SetOutput(io.Discard) // run says what is wrong, on one line
	f.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` to listen on")
	f.StringVar(&origin, "origin", "", "`URL` of the origin, such as http://127.0.0.1:8000; required")
	f.StringVar(&c.redis, "redis", "", "`URL` of the Redis to store in; empty: in this process")
	f.StringVar(&c.profile, "profile", "safe", "what is cached: safe, or conformance for all that RFC 9111 permits")
	f.StringVar(&c.router, "router", "nethttp", "nethttp or gin")
	f.IntVar(&c.maxBody, "max-body", 8<<20, "`bytes` up to which a body is stored")
	f.IntVar(&c.maxSize, "max-size", 256<<20, "`bytes` that are stored in this process at most")
	f.DurationVar(&c.drain, "drain", 10*time.Second, "how long requests that are under way may take after a signal")
	f.StringVar(&c.purgeToken, "purge-token", "", "`secret` of those who may PURGE; empty: that of "+purgeTokenVar+", and without one nobody may")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(stderr)
			f.Usage()
		}
		return nil, err
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if f.NArg() > 0 {
		fault("unknown argument %q", f.Arg(0))
	}
	var err error
	switch c.origin, err = url.Parse(origin); {
	case err != nil || c.origin.Hostname() == "" || c.origin.Scheme != "http" && c.origin.Scheme != "https":
		fault("-origin is %q, it must be an http or https URL", origin)
	case c.origin.User != nil || c.origin.RawQuery != "" || c.origin.Fragment != "":
		fault("-origin is %q, it must not have a user, query or fragment", c.origin.Redacted())
	}
	if _, ok := profiles[c.profile]; !ok {
		fault("-profile is %q, it must be safe or conformance", c.profile)
	}
	if c.router != "nethttp" && c.router != "gin" {
		fault("-router is %q, it must be nethttp or gin", c.router)
	}
	if c.maxBody <= 0 || c.maxSize <= 0 {
		fault("-max-body and -max-size must be positive")
	}
	if c.drain < 0 {
		fault("-drain is %v, it must not be negative", c.drain)
	}
	c.purgeToken = cmp.Or(c.purgeToken, os.Getenv(purgeTokenVar))
	if strings.ContainsFunc(c.purgeToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		fault("-purge-token, or %s, must be of visible ASCII characters without blanks", purgeTokenVar)
	}
	return c, errors.Join(faults...)
}

var profiles = map[string]responsecache.Profile{"safe": responsecache.Safe, "conformance": responsecache.Conformance}

// where says where responses are stored.
func (c *config) where() string {
	if c.redis == "" {
		return "stored in this process"
	}
	return "stored in Redis"
}
