// Package ratelimit limits how often something may happen, exactly, across all
// processes that share a store.
//
//	limiter, err := ratelimit.New(redislimit.New(client, nil), ratelimit.PerMinute(100), clientip.Key, nil)
//	…
//	http.ListenAndServe(":8080", limiter.Handler(mux))
//
// The algorithm is GCRA, the leaky bucket seen as a meter: a client that has
// been quiet can take Burst units at once, and then one every Period/Rate. The
// store decides in one atomic step on its own clock, so neither races between
// processes nor their clocks let anything slip through. See Limit for what is
// promised.
//
// Requests pass, loudly, while the store fails, unless Policy.FailClosed is
// set. No decision waits longer for it than Options.Timeout.
package ratelimit
