package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// end runs a script that ends sessions, and waits for the replicas if it has to.
func (s *Store) end(ctx context.Context, script *redis.Script, key string, args ...any) *redis.Cmd {
	if s.wait.Replicas == 0 {
		return script.Run(ctx, s.client, []string{key}, args...)
	}
	primary, err := s.primary(ctx, key)
	if err != nil {
		failed := redis.NewCmd(ctx)
		failed.SetErr(err)
		return failed
	}
	ended := s.endAt(ctx, primary, false, script, key, args)
	cluster, ok := s.client.(*redis.ClusterClient)
	for try := 0; ok && ended.Err() != nil && try < cluster.Options().MaxRedirects; try++ {
		// The client of one server follows no redirection.
		addr, asking := redis.IsAskError(ended.Err())
		if moved, ok := redis.IsMovedError(ended.Err()); ok {
			addr = moved
		}
		named := masterAt(ctx, cluster, addr)
		if named == nil {
			break
		}
		ended = s.endAt(ctx, named, asking, script, key, args)
	}
	return ended
}

// endAt is end at one server, with asking for a key of a slot that is on its way to it.
func (s *Store) endAt(ctx context.Context, primary *redis.Client, asking bool, script *redis.Script, key string, args []any) *redis.Cmd {
	// WAIT is about what was written over the same connection, which the
	// commands of a pipeline share.
	var ended *redis.Cmd
	var waited *redis.Cmd
	_, err := primary.Pipelined(ctx, func(p redis.Pipeliner) error {
		if asking {
			p.Do(ctx, "ASKING")
		}
		ended = script.Eval(ctx, p, []string{key}, args...)
		waited = p.Do(ctx, "WAIT", s.wait.Replicas, spell(s.wait.Timeout))
		return nil
	})
	switch {
	case err != nil:
		if ended.Err() == nil {
			ended.SetErr(err)
		}
	default:
		if n, _ := waited.Int(); n < s.wait.Replicas {
			ended.SetErr(fmt.Errorf("it has ended on the primary, but only %d of %d replicas have confirmed it within %v",
				n, s.wait.Replicas, s.wait.Timeout))
		}
	}
	return ended
}

// primary returns a client of the server that has key.
func (s *Store) primary(ctx context.Context, key string) (*redis.Client, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return c, nil
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, key)
	}
	return nil, errors.New("the client does not tell where the primary is") // New has seen to that
}

// masterAt returns the client of the master at addr, nil if there is none. It reloads what
// the client knows of the Cluster, which is out of date where a server has named another,
// and does not wait for that by itself.
func masterAt(ctx context.Context, cluster *redis.ClusterClient, addr string) *redis.Client {
	colon := strings.LastIndexByte(addr, ':')
	if colon < 0 {
		return nil
	}
	if addr[0] != '[' { // a server writes IPv6 without
		addr = net.JoinHostPort(addr[:colon], addr[colon+1:])
	}
	found := make(chan *redis.Client, 1)
	_ = cluster.ForEachMaster(ctx, func(_ context.Context, master *redis.Client) error {
		if addr == master.Options().Addr || addr == master.NodeAddress() {
			select {
			case found <- master:
			default:
			}
		}
		return nil
	})
	select {
	case master := <-found:
		return master
	default:
		return nil
	}
}
