// Package rediskey holds what the constructors of the Redis stores share.
package rediskey

import (
	"fmt"
	"strings"

	"github.com/herdless/herdless/internal/nils"
	"github.com/redis/go-redis/v9"
)

// Prefix returns the prefix of a store's keys: given, or if that is empty the
// store's default. It panics, in the name of pkg, where a constructor's
// arguments are a mistake in the program: no client, or a prefix with braces,
// which Redis Cluster would take for the hash tag that keeps the keys of one
// script in one slot.
func Prefix(pkg string, client any, given, byDefault string) string {
	MustBe(pkg, client)
	if given == "" {
		return byDefault
	}
	if strings.ContainsAny(given, "{}") {
		panic(fmt.Sprintf("%s: Options.Prefix is %q, it must not contain braces", pkg, given))
	}
	return given
}

// MustBe panics, in the name of pkg, if there is no client: neither nil is one nor a
// pointer that is nil.
func MustBe(pkg string, client any) {
	if nils.Is(client) {
		panic(pkg + ": New needs a client, such as that of redis.NewUniversalClient or redisconn.Open")
	}
}

// MustListen panics like MustBe, and if client is a *redis.Ring: that panics itself
// where a store listens, in whatever goroutine it does.
func MustListen(pkg string, client any) {
	MustBe(pkg, client)
	if _, ring := client.(*redis.Ring); ring {
		panic(pkg + ": New cannot use a redis.Ring, which has no place to listen to all of its servers: take a Cluster, or one server")
	}
}

// Database returns the number of the database that client uses. A *redis.Client says it,
// also one behind Sentinel, and so does what embeds one. A Cluster has 0 only, and for
// whatever does not say it 0 is returned as well.
func Database(client any) int {
	if c, ok := client.(interface{ Options() *redis.Options }); ok {
		return c.Options().DB
	}
	return 0
}
