// Package ratelimit limits how often something may happen, and how much of it at a
// time, exactly, across all processes that share a store.
//
//	limiter, err := ratelimit.New(redislimit.New(client, nil), ratelimit.PerMinute(100), clientip.Key, nil)
//	…
//	http.ListenAndServe(":8080", limiter.Handler(mux))
//
// A [Limit] is by default GCRA, the leaky bucket seen as a meter: a client that has
// been quiet can take Burst units at once, and then one every Period/Rate. A [Window] is
// a sliding-window counter. The store decides in one atomic step on its own clock, so
// neither races between processes nor their clocks let anything slip through. See
// Limit for what is promised.
//
// A [Policy] says for whom a limit is: its Key is always stated. It can have several
// limits, such as so many a second and so many a day, tiers, and a cost for each
// request. [NewPolicies] takes several of them at once, and a request is charged
// under all of them or under none. In Shadow a policy counts what it would deny.
//
// A [Concurrency] limits how many requests are under way at a time.
//
// # What it costs
//
// A decision is one round trip for however many limits. A key that was denied is
// denied in the process until it can pass, so that a client that does not stop costs
// nothing but that. With Policy.Batch a process takes many units at a time of keys that
// are hot. [Stats] counts such decisions.
//
// # When the store fails
//
// No decision waits longer for the store than Options.Timeout, 50 ms, and after
// three failures none waits at all until it is back. Requests pass meanwhile, loudly:
// a line in the log every ten seconds, [Stats], and Options.Observe. With
// Policy.FailClosed they are refused with 503, and with Policy.Local each process
// limits them by itself; a Concurrency has the same options. A limit that stands for something that must not happen,
// such as guessing passwords, wants one of the two.
//
// # Where it belongs
//
// From the outside in: recovery and logs; then the limit, whose key is most often the
// client's address as package clientip finds it behind the proxies that are declared
// (with the wrong ones it is the proxy that is limited, or nobody); then the response
// cache and the session. What a limit refuses costs nothing further in. There are two
// exceptions:
//
//   - A limit by user must stand inside of the session, which knows the user. Let one
//     by address stand outside of it all the same: the session is loaded before the user
//     is known.
//   - A limit that is meant to protect the handlers only can stand inside of the
//     response cache, where hits are not counted. Set Options.HideFields there: what it
//     adds to a response would be stored with it, and tell others what is left of
//     somebody else's limit.
//
// A Concurrency protects what is slow, and so belongs close to it: inside of the
// cache, around the handler.
package ratelimit
