package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// drainLimit is how long requests that are under way may take after a signal.
const drainLimit = 10 * time.Second

// serve runs one node or a whole cluster until ctx ends, and then shuts down in
// good order.
func serve(ctx context.Context, c *config, log *slog.Logger, stdout io.Writer) (err error) {
	front, err := new(net.ListenConfig).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	a := &app{config: c, log: log, front: front, failed: make(chan error, 1)}
	// Last of all, when nobody uses them any more.
	defer func() { err = errors.Join(err, a.closeStores()) }()
	if c.herdTarget == "" {
		c.herdTarget = "http://" + reachable(front.Addr(), "127.0.0.1")
	}
	start := a.startCluster
	if c.nodeOnly {
		start = a.startNode
	}
	if err := start(ctx, stdout); err != nil {
		return errors.Join(err, front.Close(), a.shutdown(ctx, 0))
	}
	select {
	case err = <-a.failed:
	case <-ctx.Done():
		log.Info("shutting down")
		for _, n := range a.nodes {
			n.draining.Store(true)
		}
		// Until the balancer in front has asked /healthz, it sends requests.
		time.Sleep(c.drainDelay)
	}
	return errors.Join(err, a.shutdown(ctx, drainLimit))
}

// app is what runs in this process.
type app struct {
	*config
	log     *slog.Logger
	front   net.Listener
	nodes   []*node
	servers []*http.Server // the balancer first, so that it ends first
	stores  []*stores
	failed  chan error
}

// startNode starts a single node on the front listener.
func (a *app) startNode(ctx context.Context, stdout io.Writer) error {
	s, err := a.openStores(ctx)
	if err != nil {
		return err
	}
	if err := a.addNode(a.front, a.name, a.router, s); err != nil { //nolint:contextcheck // what the cache does by itself has no request
		return err
	}
	_, _ = fmt.Fprintf(stdout, "herdless webapp: one node, %s (%s), and no balancer.\n%s\nOpen http://%s\n",
		a.name, a.router, a.where(), reachable(a.front.Addr(), "localhost"))
	return nil
}

// startCluster starts nodes on ports of their own and a balancer in front.
func (a *app) startCluster(ctx context.Context, stdout io.Writer) error {
	var shared *stores
	var targets []*url.URL
	var names string
	balancer := a.newServer(nil)
	a.servers = append(a.servers, balancer)
	for i := range a.config.nodes {
		s := shared
		if s == nil || a.redis != "" {
			var err error
			if s, err = a.openStores(ctx); err != nil {
				return err
			}
			shared = s
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		name, router := "node-"+strconv.Itoa(i+1), []string{routerNetHTTP, routerGin}[i%2]
		if err := a.addNode(listener, name, router, s); err != nil { //nolint:contextcheck // as above
			return errors.Join(err, listener.Close())
		}
		targets = append(targets, &url.URL{Scheme: "http", Host: listener.Addr().String()})
		if i > 0 {
			names += ", "
		}
		names += name + " (" + router + ")"
	}
	handler, err := newBalancer(targets, a.log)
	if err != nil {
		return err
	}
	balancer.Handler = handler
	a.start(balancer, a.front)
	_, _ = fmt.Fprintf(stdout, "herdless webapp: %d nodes behind a round-robin balancer: %s.\n%s\nOpen http://%s\n",
		len(targets), names, a.where(), reachable(a.front.Addr(), "localhost"))
	return nil
}

func (a *app) where() string {
	if a.redis != "" {
		return "Sessions, cached pages, locks and rate limits are in Redis."
	}
	if a.nodeOnly {
		return "It keeps everything in this process; -redis URL lets it share with other nodes."
	}
	return "They share the in-process stores, so there is no Redis, and all is forgotten at the end; -redis URL puts them on Redis."
}

func (a *app) openStores(ctx context.Context) (s *stores, err error) {
	if a.redis != "" {
		s, err = onRedis(ctx, a.redis)
	} else {
		s = inProcess()
	}
	if err == nil {
		a.stores = append(a.stores, s)
	}
	return s, err
}

func (a *app) addNode(listener net.Listener, name, router string, s *stores) error {
	n, err := newNode(nodeConfig{
		name: name, work: a.work, secureCookies: a.secureCookies, trusted: a.trusted, herdTarget: a.herdTarget,
	}, s, a.log)
	if err != nil {
		return err
	}
	routes := n.netHTTP
	if router == routerGin {
		routes = n.gin
	}
	a.nodes = append(a.nodes, n)
	server := a.newServer(n.figures.Handler(n.edge(routes())))
	a.servers = append(a.servers, server)
	a.start(server, listener)
	return nil
}

func (a *app) newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      45 * time.Second, // a herd takes its time
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
}

func (a *app) start(s *http.Server, l net.Listener) {
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			select {
			case a.failed <- err:
			default: // one is enough to end the program
			}
		}
	}()
}

// shutdown ends all servers, and lets the requests under way finish within
// limit: first those that came through the balancer, then the rest.
// ctx may have ended: that is why.
func (a *app) shutdown(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var once sync.Once
	var errs []error
	for _, s := range a.servers {
		if err := s.Shutdown(ctx); err != nil {
			once.Do(func() { errs = append(errs, fmt.Errorf("requests were cut off after %v: %w", limit, err)) })
			errs = append(errs, s.Close())
		}
	}
	for _, n := range a.nodes { // sends what they have counted last
		if err := n.figures.Close(ctx); err != nil {
			a.log.Warn("the last figures are lost", "node", n.shop.Node(), "error", err)
		}
	}
	return errors.Join(errs...)
}

func (a *app) closeStores() error {
	var errs []error
	for _, s := range a.stores {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// reachable returns how to get from here to what listens at addr; self stands
// for this machine.
func reachable(addr net.Addr, self string) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip.IsUnspecified() || ip.IsLoopback() && ip.To4() != nil {
		host = self
	}
	return net.JoinHostPort(host, port)
}

// healthcheck asks url as a container's health check would.
func healthcheck(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}
