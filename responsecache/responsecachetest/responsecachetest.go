// Package responsecachetest states the rules of HTTP caching as tests, for
// handlers that are wrapped by a shared cache of herdless: RFC 9111 and what
// extends it. Every cache of herdless passes them, on any store and behind any
// framework; run them on a set-up of your own.
//
// Everything goes through real servers, over HTTP/1.1 and HTTP/2. Each rule is
// a subtest, under the section that it is from, that quotes the rule when it
// fails.
package responsecachetest

import (
	"net/http"
	"testing"

	"github.com/herdless/herdless/responsecache"
)

// Setup is what is tested.
type Setup struct {
	// New returns what a server is to serve: origin, wrapped by a new and empty
	// cache of this profile with a route of this policy, for every path and
	// every method. Everything else about the cache is the default.
	//
	// Nothing outside of the cache may answer a request, recover from a panic
	// or set fields of the response. Stale responses must be made anew in the
	// background; where that takes a Refresh handler, New must set it.
	New func(t *testing.T, profile responsecache.Profile, policy responsecache.Policy, origin http.Handler) http.Handler
}

// Run runs the suite.
func Run(t *testing.T, s Setup) {
	t.Helper()
	for _, proto := range []string{http1, http2} {
		t.Run(proto, func(t *testing.T) {
			servers := newServers(t, s, proto)
			for _, g := range groups() {
				t.Run(g.section, func(t *testing.T) { runGroup(t, servers, &g) })
			}
		})
	}
}

const (
	http1 = "HTTP1.1"
	http2 = "HTTP2"
)

// group is what one rule demands, in as many cases as it takes.
type group struct {
	section string // where the rule is from
	rule    string
	cases   []scenario

	// policy is that of the cases that have none of their own. Nil: the zero
	// one.
	policy *responsecache.Policy
	// profile is the only one that the rule holds in. Nil: it holds in each.
	profile *responsecache.Profile
}

// scenario is a case: requests, one after the other, each with what comes of it.
type scenario struct {
	name   string
	steps  []*step
	policy *responsecache.Policy  // as in group
	in     *responsecache.Profile // likewise
}

var (
	safe        = new(responsecache.Safe)
	conformance = new(responsecache.Conformance)
)

func runGroup(t *testing.T, servers *servers, g *group) {
	for profile, profileName := range map[responsecache.Profile]string{*safe: "Safe", *conformance: "Conformance"} {
		for _, c := range g.cases {
			only := g.profile
			if c.in != nil {
				only = c.in
			}
			if only == nil && servers.proto == http2 {
				only = safe // that the profiles agree has nothing to do with the protocol
			}
			if only != nil && *only != profile {
				continue
			}
			policy := g.policy
			if c.policy != nil {
				policy = c.policy
			}
			t.Run(profileName+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				defer func() {
					if t.Failed() {
						t.Errorf("the rule is, by %s: %s", g.section, g.rule)
					}
				}()
				newRun(t, servers.of(profile, policy), c.steps).all()
			})
		}
	}
}

// groups returns all rules. They are made anew for each run, because they have
// dates in them that are close to now.
func groups() []group {
	var all []group
	for _, part := range [][]group{
		storing(), directives(), fieldsStored(), authorization(),
		reuse(), vary(), collapsing(),
		lifetimes(), expires(), ages(), heuristics(),
		stale(), staleOnError(),
		validation(), updates(), conditions(), conditionals304(), head(),
		ranges(), ifRange(), invalidation(), post(), requestDirectives(), interim(),
		cacheStatus(), targeted(), cacheGroups(), noVarySearch(),
		policies(), compression(), profiles(),
	} {
		all = append(all, part...)
	}
	return all
}
