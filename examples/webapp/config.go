package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// config is what flags and the environment say.
type config struct {
	listen        string
	redis         string
	nodes         int
	nodeOnly      bool
	name          string
	router        string
	herdTarget    string
	secureCookies bool
	trustProxy    string
	drainDelay    time.Duration
	work          time.Duration
	healthcheck   string

	trusted []netip.Prefix // trustProxy, parsed
}

// variables names the environment variable of each flag that has one. A flag on
// the command line counts more.
var variables = map[string]string{
	"listen":         "LISTEN",
	"redis":          "REDIS_URL",
	"nodes":          "NODES",
	"node-only":      "NODE_ONLY",
	"name":           "NODE_NAME",
	"router":         "ROUTER",
	"herd-target":    "HERD_TARGET",
	"secure-cookies": "SECURE_COOKIES",
	"trust-proxy":    "TRUST_PROXY",
	"drain-delay":    "DRAIN_DELAY",
	"work":           "WORK",
}

const (
	routerNetHTTP = "nethttp"
	routerGin     = "gin"

	loopback = "127.0.0.0/8,::1/128"
)

func parse(args []string, env func(string) (string, bool), stderr io.Writer) (*config, error) {
	c := &config{}
	fs := flag.NewFlagSet("webapp", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // one line says what is wrong; -h shows the rest
	fs.StringVar(&c.listen, "listen", ":8080", "listen on this `address`")
	fs.StringVar(&c.redis, "redis", "", "keep everything in the Redis at this `URL`: redis://host:6379/0, rediss://…,\n"+
		"redis+sentinel://host:26379,host:26379/primary/0 or redis+cluster://host:6379,host:6379\n"+
		"(default in this process)")
	fs.IntVar(&c.nodes, "nodes", 3, "start so many nodes, in turns net/http and gin, behind the built-in balancer")
	fs.BoolVar(&c.nodeOnly, "node-only", false, "be one node, without a balancer, for a cluster of your own")
	fs.StringVar(&c.name, "name", "", "with -node-only: the node's `name` on the pages (default the host's name)")
	fs.StringVar(&c.router, "router", routerNetHTTP, "with -node-only: the node's `router`, nethttp or gin")
	fs.StringVar(&c.herdTarget, "herd-target", "", "the herd page sends its requests to this `URL` (default this program's own)")
	fs.BoolVar(&c.secureCookies, "secure-cookies", false, "set cookies for https only, where a proxy in front speaks TLS")
	fs.StringVar(&c.trustProxy, "trust-proxy", "", "believe X-Forwarded-For of proxies in these `networks`, such as 10.0.0.7/32,10.0.0.8/32\n"+
		"(default the built-in balancer's, and none with -node-only)")
	fs.DurationVar(&c.drainDelay, "drain-delay", 0, "after SIGTERM, go on serving for so long with /healthz and /readyz at 503, so that the balancer notices")
	fs.DurationVar(&c.work, "work", 800*time.Millisecond, "how long the catalogue page takes to compute")
	fs.StringVar(&c.healthcheck, "healthcheck", "", "ask this `URL`, and exit with 0 if the answer is 200, for containers")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		usage(fs, stderr)
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w (webapp -h lists the flags)", err)
	case fs.NArg() > 0:
		return nil, fmt.Errorf("it takes no arguments, but was given %q (webapp -h lists the flags)", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var errs []error
	for name, variable := range variables {
		value, ok := env(variable)
		if !ok || value == "" || given[name] {
			continue
		}
		if err := fs.Set(name, value); err != nil {
			errs = append(errs, fmt.Errorf("the environment variable %s is %q: %w", variable, value, err))
		}
	}
	return c, errors.Join(append(errs, c.complete())...)
}

// usage tells what can be set, and how.
func usage(fs *flag.FlagSet, w io.Writer) {
	fs.SetOutput(w)
	_, _ = fmt.Fprintln(w, "Usage of webapp:")
	fs.PrintDefaults()
	_, _ = fmt.Fprintln(w, "Each flag but -healthcheck can be set by the environment, too:")
	fs.VisitAll(func(f *flag.Flag) {
		if v := variables[f.Name]; v != "" {
			_, _ = fmt.Fprintf(w, "  %-15s %s\n", v, "-"+f.Name)
		}
	})
}

// complete checks the settings against each other and fills in the defaults
// that depend on others.
func (c *config) complete() error {
	var errs []error
	if c.nodes < 1 || c.nodes > 20 {
		errs = append(errs, fmt.Errorf("-nodes is %d, but it must be from 1 to 20", c.nodes))
	}
	if c.router != routerNetHTTP && c.router != routerGin {
		errs = append(errs, fmt.Errorf("-router is %q, but it must be %s or %s", c.router, routerNetHTTP, routerGin))
	}
	if c.work < 0 || c.work > 10*time.Second {
		errs = append(errs, fmt.Errorf("-work is %v, but it must be from 0s to 10s", c.work))
	}
	if c.drainDelay < 0 || c.drainDelay > time.Minute {
		errs = append(errs, fmt.Errorf("-drain-delay is %v, but it must be from 0s to 1m", c.drainDelay))
	}
	if c.name == "" {
		c.name, _ = os.Hostname()
	}
	if c.name == "" {
		c.name = "node"
	}
	if !isToken(c.name) {
		errs = append(errs, fmt.Errorf("-name is %q, but it may hold letters, digits, dots, hyphens and underscores only", c.name))
	}
	if c.herdTarget != "" {
		u, err := url.Parse(c.herdTarget)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
			errs = append(errs, fmt.Errorf("-herd-target is %q, but it must be a URL such as http://lb:8080", c.herdTarget))
		}
		c.herdTarget = strings.TrimRight(c.herdTarget, "/")
	}
	trust := c.trustProxy
	if trust == "" && !c.nodeOnly {
		trust = loopback
	}
	for _, s := range strings.FieldsFunc(trust, func(r rune) bool { return r == ',' || r == ' ' }) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("-trust-proxy has %q, but it must be a network such as 10.0.0.7/32", s))
			continue
		}
		c.trusted = append(c.trusted, p)
	}
	return errors.Join(errs...)
}

// isToken reports whether s can stand in a header field as it is.
func isToken(s string) bool {
	return len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}
