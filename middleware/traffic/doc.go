// Package traffic counts what a cluster of servers does while it does it: requests
// by route, status and server, latencies, bytes, cache hits, unique visitors, and
// leaderboards of paths, products, or whatever a program feeds to them.
//
//	figures, err := traffic.New(redistraffic.New(rdb, nil), nil)
//	…
//	http.Handle("/traffic", figures.Dashboard(isAdmin))
//	srv := &http.Server{Addr: addr, Handler: figures.Handler(http.DefaultServeMux)}
//	…
//	err = srv.Shutdown(ctx)  // at SIGTERM
//	err = figures.Close(ctx)
//
// A request is counted in the memory of its process: less than a microsecond, no
// round trip. Once a second each process sends what has come together to the store,
// in one batch that has a number, so that a batch that is sent again counts once.
//
// # What it promises
//
// Counters are exact: what was flushed is counted once, by whatever number of
// servers. A server that is killed takes what it has counted since its last flush
// with it, a second or so; Recorder.Close flushes.
//
// A request counts in the minute in which it ends, on the store's clock, whenever it is
// sent. What is added to a leaderboard counts in the minute, the hour and the day in
// which it is sent, a second or so later.
//
// While the store is away nothing is lost. Counters go on in the process, by the
// minute for a quarter of an hour and together after that, and are sent when the
// store is back; what is added to leaderboards counts in the windows of that moment.
// A process that has not reached the store since it began takes its own clock, and puts
// its minutes right when the store has told it the time.
//
// Memory is bounded whatever comes. A process tells 255 routes apart and has counters
// for no more than 15 minutes of them, beside those of the batch under way; a store
// tells 382 routes and 128 servers apart a day. The rest is counted as Other. A process
// knows 16,384 members of a leaderboard, or eight times its capacity; when those are too
// many it forgets the ones that came least, so that somebody who asks for a million paths
// that do not exist moves none of those on top: not while half of all requests are his;
// where it is nine of ten, some of the last ones of the top hundred are missing. Unique
// visitors are a HyperLogLog of 16 KiB, with a standard error of 0.81 %: in 98 of 100
// cases it is within 2 % of the truth.
//
// # Privacy
//
// No address is stored, and no name of a visitor. A visitor counts as the 64 bits of a
// SipHash-2-4 whose key is a random salt, which the servers share for one day and the
// store forgets at its end; and of those bits only a register of the HyperLogLog is
// kept. So visitors cannot be followed from one day to the next, and one who comes on
// two days counts twice in a report on both.
//
// Paths are stored as they come. Options.Path leaves out, or rewrites, those in which
// there are secrets.
//
// # Order
//
// Outermost, inside of the recovery from panics only: outside of the rate limit, the
// response cache and the session, so that refused requests and cache hits count, and
// the latency is that which the client sees. Where other middleware than that of
// this module replaces the request, as http.MaxBytesHandler and http.StripPrefix do,
// and stands between a Recorder and an http.ServeMux, put Routed around the ServeMux. A hit of a response cache that is not inside of the
// ServeMux has no route: nothing has looked for it.
package traffic
