package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// clusterNode is one line of CLUSTER NODES: what one node thinks of another.
// https://redis.io/docs/latest/commands/cluster-nodes/
type clusterNode struct {
	id     string
	addr   string // "127.0.0.1:port"
	flags  []string
	master string // the id of its master, "-" for a master
	epoch  int64  // of its claim to its slots
	linked bool
	slots  [][2]int // ranges, both ends included
}

func (n clusterNode) has(flag string) bool { return slices.Contains(n.flags, flag) }

func (n clusterNode) owns(slot int) bool {
	return slices.ContainsFunc(n.slots, func(r [2]int) bool { return r[0] <= slot && slot <= r[1] })
}

func parseClusterNodes(text string) ([]clusterNode, error) {
	var out []clusterNode
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("redistest: unexpected line of CLUSTER NODES: %q", line)
		}
		epoch, err := strconv.ParseInt(f[6], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("redistest: unexpected line of CLUSTER NODES: %q: %w", line, err)
		}
		addr, _, _ := strings.Cut(f[1], "@")
		n := clusterNode{
			id: f[0], addr: addr, flags: strings.Split(f[2], ","), master: f[3],
			epoch: epoch, linked: f[7] == "connected",
		}
		for _, s := range f[8:] {
			if strings.HasPrefix(s, "[") { // a slot on the move
				continue
			}
			from, to, ranged := strings.Cut(s, "-")
			if !ranged {
				to = from
			}
			lo, err1 := strconv.Atoi(from)
			hi, err2 := strconv.Atoi(to)
			if err1 != nil || err2 != nil {
				return nil, fmt.Errorf("redistest: unexpected slots in CLUSTER NODES: %q", line)
			}
			n.slots = append(n.slots, [2]int{lo, hi})
		}
		out = append(out, n)
	}
	return out, nil
}
