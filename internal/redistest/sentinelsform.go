package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
)

func startSentinels() (*Sentinels, error) {
	const replicas, sentinels = 2, 3
	// Without the delay, a replica has its data at once and not after 5 s.
	options := []string{"--repl-diskless-sync-delay", "0", "--replica-announce-ip", "127.0.0.1"}
	primary, err := startServer(nil, options...)
	if err != nil {
		return nil, err
	}
	s := &Sentinels{data: []*Server{primary}}
	fail := func(err error) (*Sentinels, error) {
		err = withLogs(err, append(s.sentinels, s.data...)...)
		return nil, errors.Join(err, endAll(s.sentinels), endAll(s.data))
	}
	list, err := startServers(replicas, nil, func(int) []string {
		return append([]string{"--replicaof", "127.0.0.1", strconv.Itoa(primary.port)}, options...)
	})
	if err != nil {
		return fail(err)
	}
	s.data = append(s.data, list...)
	// The sentinels ask the primary for its replicas when they start, and the
	// next time only after a while.
	err = until(context.Background(), stateLimit, "attach the replicas", func(ctx context.Context) error {
		return primary.feeds(ctx, replicas)
	})
	if err != nil {
		return fail(err)
	}
	config := func(port int) string { return sentinelConfig(port, primary.port) }
	s.sentinels, err = startServers(sentinels, config, func(int) []string { return []string{"--sentinel"} })
	if err != nil {
		return fail(err)
	}
	for _, sentinel := range s.sentinels {
		// From Redis 7.0 on the sentinels can be told to look around more
		// often, and so to find each other, and to notice a change, sooner.
		// Older ones refuse and take some seconds longer.
		_ = sentinel.do(context.Background(), "SENTINEL", "DEBUG",
			"INFO-PERIOD", "500", "PUBLISH-PERIOD", "200",
			// On a machine that stalls, a sentinel would do nothing for 30 s.
			"TILT-TRIGGER", "10000", "TILT-PERIOD", "1000").Err()
	}
	err = until(context.Background(), stateLimit, "wait for the sentinels", func(ctx context.Context) error {
		return s.settled(ctx, primary)
	})
	if err != nil {
		return fail(err)
	}
	return s, nil
}

func sentinelConfig(port, primary int) string {
	return fmt.Sprintf(`port %d
bind 127.0.0.1
sentinel monitor %[3]s 127.0.0.1 %[2]d 2
sentinel down-after-milliseconds %[3]s 1000
sentinel failover-timeout %[3]s 3000
sentinel parallel-syncs %[3]s 2
sentinel announce-ip 127.0.0.1
`, port, primary, masterName)
}

// settled returns nil if primary accepts writes, and all sentinels agree on it
// and know each other and all replicas to be well. Servers that a test has
// killed or stopped are not expected to be.
func (s *Sentinels) settled(ctx context.Context, primary *Server) error {
	if err := primary.writable(ctx); err != nil {
		return err
	}
	var replicas []*Server
	for _, server := range awake(s.data) {
		if server != primary {
			replicas = append(replicas, server)
		}
	}
	err := all(replicas, func(replica *Server) error { return replica.follows(ctx, primary) })
	if err != nil {
		return err
	}
	return all(s.sentinels, func(sentinel *Server) error { return s.seesAll(ctx, sentinel, primary, replicas) })
}

func (s *Sentinels) seesAll(ctx context.Context, sentinel, primary *Server, replicas []*Server) error {
	master, err := sentinel.table(ctx, "SENTINEL", "MASTER", masterName)
	if err != nil {
		return err
	}
	if addr := net.JoinHostPort(master["ip"], master["port"]); addr != primary.Addr() || master["flags"] != "master" {
		return fmt.Errorf("sentinel %s sees the primary %s with flags %s, not %s", sentinel.Addr(), addr, master["flags"], primary.Addr())
	}
	others, err := sentinel.tables(ctx, "SENTINEL", "SENTINELS", masterName)
	if err != nil {
		return err
	}
	well := 0
	for _, other := range others {
		if other["flags"] == "sentinel" {
			well++
		}
	}
	if well != len(s.sentinels)-1 {
		return fmt.Errorf("sentinel %s sees %d others", sentinel.Addr(), well)
	}
	known, err := sentinel.tables(ctx, "SENTINEL", "REPLICAS", masterName)
	if err != nil {
		return err
	}
	return all(replicas, func(replica *Server) error {
		for _, r := range known {
			if r["port"] == strconv.Itoa(replica.port) {
				if r["flags"] == "slave" && r["master-port"] == strconv.Itoa(primary.port) && r["master-link-status"] == "ok" {
					return nil
				}
				return fmt.Errorf("sentinel %s sees replica %s with flags %s, of port %s, link %s",
					sentinel.Addr(), replica.Addr(), r["flags"], r["master-port"], r["master-link-status"])
			}
		}
		return fmt.Errorf("sentinel %s does not see replica %s", sentinel.Addr(), replica.Addr())
	})
}
