// Package redisconn opens a Redis client from a URL, for programs that have a
// string such as $REDIS_URL, with timeouts fit for a web server. Programs with
// other needs make a client of go-redis themselves: every store of herdless
// takes any.
//
// The URLs are
//
//	redis://[[user]:password@]host[:6379][/db]                            one server
//	unix://[[user]:password@]/path/to/redis.sock[?db=n]                   one server, by its socket
//	redis+sentinel://[[user]:password@]host[:26379][,host…]/primary[/db]  the primary that Sentinels name
//	redis+cluster://[[user]:password@]host[:6379][,host…]                 a Cluster
//
// and rediss, rediss+sentinel and rediss+cluster for the same over TLS, which
// for rediss+sentinel covers the connections to the Sentinels too. User and
// password are percent-encoded where they hold characters such as "/", "@" or
// "?". An IPv6 address stands in brackets. The query may set
//
//	client_name                          the name in CLIENT LIST
//	dial_timeout                         2s by default
//	read_timeout, write_timeout          1s each
//	pool_timeout                         1s: how long to wait for a free connection
//	pool_size                            connections per server, 10 per CPU
//	min_idle_conns                       0; with more, connections are made at once
//	max_retries                          1; 0 means none
//	protocol                             2 (RESP2), or 3 (RESP3)
//	sentinel_username, sentinel_password for the Sentinels, if they want some
//
// with durations as Go writes them ("500ms").
//
// # Timeouts and retries
//
// The defaults let a request that meets a Redis that hangs fail soon, where
// those of go-redis wait for many seconds. A context's deadline is obeyed
// (ContextTimeoutEnabled), which it is not by default either, so the stores can
// keep their own, much shorter budgets. A command is tried again once, which
// covers a connection that broke while it was idle; waiting out a failover
// would keep every request of the server waiting.
//
// A server that could not be reached three times in a row is dialled about once a
// second, until it can be; what would need another connection meanwhile fails at
// once.
//
// # Protocol
//
// The connections speak RESP2, where those of go-redis speak RESP3 by default: RESP3 costs
// a process that sends many commands at a time up to a tenth more of its processor time,
// and herdless needs nothing of it. Programs that want the notifications of Redis
// Enterprise before maintenance, which go-redis has for servers by themselves and for
// Clusters, set protocol=3.
package redisconn

import (
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	defaultDialTimeout = 2 * time.Second
	defaultTimeout     = time.Second
	defaultRetries     = 1
	// defaultProtocol is RESP2. With RESP3 go-redis looks before each answer whether
	// the server has something to say by itself, which is a tenth of the time of a
	// pipelined GET, and herdless asks for nothing of that kind.
	defaultProtocol = 2
	// dialRetries is how often one dial is tried; go-redis tries five times, a
	// tenth of a second apart. Ours never fails, see dialer.
	dialRetries = 1
)

// reloadInterval is how often a client of a Cluster asks for its layout.
const reloadInterval = time.Second

// Open returns a client for the Redis at rawURL; the package documentation says
// what the URL may be. It does not connect (min_idle_conns aside): Check does.
//
// The error says which part of the URL is wrong and what belongs there, and
// quotes nothing of it but a name in the query that cannot be a piece of a
// password, so that none ends up in a log.
//
// A client of a Cluster asks for its layout once a second while it is used, not
// once a minute as go-redis does by default: nothing else tells it which server
// has taken over from one that died.
func Open(rawURL string) (redis.UniversalClient, error) {
	t, err := parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("redisconn: %w", err)
	}
	t.options.Dialer = newDialer(redis.NewDialer(&redis.Options{
		DialTimeout: t.options.DialTimeout, TLSConfig: t.options.TLSConfig,
	}), t.options.ReadTimeout).Dial
	switch t.kind {
	case sentinel:
		return redis.NewFailoverClient(t.options.Failover()), nil
	case cluster:
		o := t.options.Cluster()
		o.ClusterStateReloadInterval = reloadInterval
		return redis.NewClusterClient(o), nil
	default:
		return redis.NewClient(t.options.Simple()), nil
	}
}
