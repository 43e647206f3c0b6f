package redistest

import (
	"context"
	"errors"
	"fmt"
)

func startCluster() (*Cluster, error) {
	nodes, err := startServers(2*clusterMasters, nil, func(int) []string {
		return []string{
			"--cluster-enabled", "yes",
			"--cluster-config-file", "nodes.conf",
			"--cluster-node-timeout", "2000",
			"--cluster-announce-ip", "127.0.0.1",
			// Without the delay, a replica has its data at once and not after 5 s.
			"--repl-diskless-sync-delay", "0",
		}
	})
	if err != nil {
		return nil, err
	}
	c := &Cluster{nodes: nodes}
	if err := c.form(); err != nil {
		return nil, errors.Join(withLogs(err, nodes...), endAll(nodes))
	}
	return c, nil
}

// form makes a cluster of the nodes: the first three are masters, the i-th
// replica follows the i-th of them.
func (c *Cluster) form() error {
	ctx, cancel := context.WithTimeout(context.Background(), stateLimit)
	defer cancel()
	masters, replicas := c.nodes[:clusterMasters], c.nodes[clusterMasters:]
	for i, node := range c.nodes {
		// Different epochs from the start save the nodes the negotiation.
		if err := node.do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return fmt.Errorf("redistest: CLUSTER SET-CONFIG-EPOCH on %s: %w", node.Addr(), err)
		}
	}
	for i, master := range masters {
		// ADDSLOTSRANGE is not in Redis 6.2.
		add := []any{"CLUSTER", "ADDSLOTS"}
		for slot := i * clusterSlots / clusterMasters; slot < (i+1)*clusterSlots/clusterMasters; slot++ {
			add = append(add, slot)
		}
		if err := master.do(ctx, add...).Err(); err != nil {
			return fmt.Errorf("redistest: CLUSTER ADDSLOTS on %s: %w", master.Addr(), err)
		}
	}
	// Each node meets each: gossip would take longer to introduce them.
	for i, node := range c.nodes {
		for _, other := range c.nodes[:i] {
			if err := node.do(ctx, "CLUSTER", "MEET", "127.0.0.1", other.port).Err(); err != nil {
				return fmt.Errorf("redistest: CLUSTER MEET on %s: %w", node.Addr(), err)
			}
		}
	}
	for i, replica := range replicas {
		err := until(context.Background(), stateLimit, "attach replica "+replica.Addr(), func(ctx context.Context) error {
			id, err := masters[i].do(ctx, "CLUSTER", "MYID").Text()
			if err != nil {
				return fmt.Errorf("CLUSTER MYID on %s: %w", masters[i].Addr(), err)
			}
			// Refused until it has met the master.
			return replica.do(ctx, "CLUSTER", "REPLICATE", id).Err()
		})
		if err != nil {
			return err
		}
	}
	return until(context.Background(), stateLimit, "form the cluster", func(ctx context.Context) error {
		for i, replica := range replicas {
			if err := c.settled(ctx, masters[i], replica); err != nil {
				return err
			}
		}
		return nil
	})
}

// settled returns nil if all nodes agree that the cluster is well and that
// replica follows master, and these two agree. Nodes that a test has killed or
// stopped are not asked.
func (c *Cluster) settled(ctx context.Context, master, replica *Server) error {
	if replica.awake() {
		if err := replica.follows(ctx, master); err != nil {
			return err
		}
		if err := master.feeds(ctx, 1); err != nil {
			return err
		}
	}
	return all(awake(c.nodes), func(node *Server) error {
		text, err := node.do(ctx, "CLUSTER", "INFO").Text()
		if err != nil {
			return fmt.Errorf("CLUSTER INFO on %s: %w", node.Addr(), err)
		}
		if state := fields(text)["cluster_state"]; state != "ok" {
			return fmt.Errorf("cluster_state on %s is %q", node.Addr(), state)
		}
		view, err := node.clusterView(ctx)
		if err != nil {
			return err
		}
		m, r := view[master.Addr()], view[replica.Addr()]
		if len(view) != len(c.nodes) || !m.has("master") || len(m.slots) == 0 {
			return fmt.Errorf("%s sees %d nodes, and %s as %v with slots %v", node.Addr(), len(view), master.Addr(), m.flags, m.slots)
		}
		if replica.awake() && (!r.has("slave") || r.master != m.id || r.has("fail") || r.has("fail?") || !r.linked) {
			return fmt.Errorf("%s sees %s as %v of %q, not as a replica of %q in good state", node.Addr(), replica.Addr(), r.flags, r.master, m.id)
		}
		return nil
	})
}

// clusterView returns what the node thinks of each node, by address.
func (s *Server) clusterView(ctx context.Context) (map[string]clusterNode, error) {
	text, err := s.do(ctx, "CLUSTER", "NODES").Text()
	if err != nil {
		return nil, fmt.Errorf("CLUSTER NODES on %s: %w", s.Addr(), err)
	}
	list, err := parseClusterNodes(text)
	if err != nil {
		return nil, err
	}
	view := make(map[string]clusterNode)
	for _, n := range list {
		view[n.addr] = n
	}
	return view, nil
}
