package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	clusterMasters = 3
	clusterSlots   = 16384
)

// Cluster is a Redis Cluster of three masters with one replica each. Its nodes
// take another for down after 2 s (cluster-node-timeout), and a replica takes
// over from a dead master some 2 s later. Its methods are safe for concurrent
// use.
type Cluster struct {
	nodes    []*Server
	failover sync.Mutex // one at a time
}

var sharedCluster = sync.OnceValues(startCluster)

// SharedCluster returns the cluster that all tests of the binary share; the
// first call starts it. If it could not be started, every caller fails.
func SharedCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := sharedCluster()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// NewCluster starts a cluster for this test alone, which may break it, and
// ends it with the test.
func NewCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := startCluster()
	if err != nil {
		tb.Fatal(err)
	}
	endWith(tb, c.nodes...)
	return c
}

// owners returns the owner of each slot: of all claims that any node knows of,
// the one with the highest epoch, which is the one that prevails.
func (c *Cluster) owners(ctx context.Context) ([clusterSlots]*Server, error) {
	var owners [clusterSlots]*Server
	var epochs [clusterSlots]int64
	var errs []error
	for _, node := range awake(c.nodes) {
		view, err := node.clusterView(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, server := range c.nodes {
			claim := view[server.Addr()]
			for _, r := range claim.slots {
				for slot := r[0]; slot <= r[1]; slot++ {
					if owners[slot] == nil || claim.epoch > epochs[slot] {
						owners[slot], epochs[slot] = server, claim.epoch
					}
				}
			}
		}
	}
	if i := slices.Index(owners[:], nil); i >= 0 {
		errs = append(errs, fmt.Errorf("slot %d has no owner, say %v", i, addrs(awake(c.nodes))))
		return owners, errors.Join(errs...)
	}
	return owners, nil
}

func (c *Cluster) mustOwners(tb testing.TB) [clusterSlots]*Server {
	tb.Helper()
	var owners [clusterSlots]*Server
	err := until(context.Background(), startLimit, "ask for the masters", func(ctx context.Context) (err error) {
		owners, err = c.owners(ctx)
		return err
	})
	if err != nil {
		tb.Fatal(withLogs(err, c.nodes...))
	}
	return owners
}

// Addrs returns the addresses of all nodes, masters and replicas.
func (c *Cluster) Addrs() []string { return addrs(c.nodes) }

// URL returns "redis+cluster://" and all addresses with commas between.
func (c *Cluster) URL() string { return "redis+cluster://" + strings.Join(c.Addrs(), ",") }

// Client returns a new client with go-redis's defaults, which is closed with
// the test.
func (c *Cluster) Client(tb testing.TB) *redis.ClusterClient {
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	closeWith(tb, rdb)
	return rdb
}

// Masters returns the nodes that own slots at present, in the order of their
// first slots. One that has died is among them until its replica has taken
// over.
func (c *Cluster) Masters(tb testing.TB) []*Server {
	tb.Helper()
	var out []*Server
	for _, owner := range c.mustOwners(tb) {
		if !slices.Contains(out, owner) {
			out = append(out, owner)
		}
	}
	return out
}

// MasterOf returns the node that owns the slot of key at present.
func (c *Cluster) MasterOf(tb testing.TB, key string) *Server {
	tb.Helper()
	var slot int
	err := until(context.Background(), startLimit, "ask for the slot of a key", func(ctx context.Context) error {
		err := errors.New("all nodes are killed or stopped")
		for _, node := range awake(c.nodes) {
			if slot, err = node.do(ctx, "CLUSTER", "KEYSLOT", key).Int(); err == nil {
				break
			}
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c.mustOwners(tb)[slot]
}

// FailOver has the replica of master take over from it, by CLUSTER FAILOVER;
// with FORCE if the test has killed or stopped the master. It returns when all
// nodes agree on that, the cluster is well and the old master, if it runs, is
// the replica. Every client notices, so it is for NewCluster.
func (c *Cluster) FailOver(tb testing.TB, master *Server) {
	tb.Helper()
	c.failover.Lock()
	defer c.failover.Unlock()
	var replica *Server
	var asked time.Time
	err := until(context.Background(), 2*stateLimit, "fail over from "+master.Addr(), func(ctx context.Context) error {
		if replica == nil {
			var err error
			if replica, err = c.replicaOf(ctx, master); err != nil {
				return err
			}
		}
		owners, err := c.owners(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(owners[:], master) {
			return c.settled(ctx, replica, master)
		}
		// The replica gives up after 5 s.
		if time.Since(asked) < 6*time.Second {
			return fmt.Errorf("%s still owns slots", master.Addr())
		}
		command := []any{"CLUSTER", "FAILOVER"}
		if !master.awake() {
			command = append(command, "FORCE")
		}
		if err := replica.do(ctx, command...).Err(); err != nil {
			return fmt.Errorf("%v on %s: %w", command, replica.Addr(), err)
		}
		asked = time.Now()
		return errors.New("asked for a failover")
	})
	if err != nil {
		tb.Fatal(withLogs(err, c.nodes...))
	}
}

// replicaOf returns the replica of master that runs.
func (c *Cluster) replicaOf(ctx context.Context, master *Server) (*Server, error) {
	err := fmt.Errorf("%s has no replica", master.Addr())
	for _, node := range awake(c.nodes) {
		info, infoErr := node.info(ctx, "replication")
		if infoErr != nil {
			err = infoErr
		} else if info["role"] == "slave" && info["master_host"]+":"+info["master_port"] == master.Addr() {
			return node, nil
		}
	}
	return nil, err
}
