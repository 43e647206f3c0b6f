// Package idempotency runs a request that must not happen twice, such as a
// payment, once in the whole cluster, however often the client sends it: the
// header field Idempotency-Key of the IETF's httpapi working group
// (draft-ietf-httpapi-idempotency-key-header).
//
//	once, err := idempotency.New(redisidempotency.New(rdb, nil), byUser, 24*time.Hour, nil)
//	…
//	mux.Handle("POST /payments", once.Handler(http.HandlerFunc(pay)))
//
// The first request with a key runs the handler, under a lease that is renewed as
// long as it runs. Its response is stored and then sent. Whoever sends the key
// again gets that response, with the field "Idempotent-Replayed: true"; while the
// handler is still running, he waits for it, and gets 409 if that takes longer than
// Options.Wait. A key that comes with another request (method, URL or body) is
// answered with 422. Keys of different callers have nothing to do with each
// other: the scope, which is a required argument, says who the caller is.
//
// # What it promises
//
// As long as the store keeps what it was told, of any number of requests with
// one key, on any number of servers, at most one runs the handler at a time, and
// none after a response was stored. A client that goes away does not end the
// handler: its context goes on, so that there is a response for the retry. If the
// store loses its data meanwhile the response is stored all the same, and only
// requests that come before that run the handler again. If the store is away when the
// handler ends, the client gets the response, and for the time of Options.Lease the
// server goes on trying to store it.
//
// A server that dies in the middle leaves an operation of which nobody knows how
// far it came. After the lease the next request with the key runs the handler
// again. Attempt tells it that it is not the first: it has to find out, from its
// own data, what the one before has done. The same holds after a response that is
// not kept (Options.Keep) and after a panic. Write what the handler does in one
// transaction, with the key in it, if it must be exactly once even then.
//
// # What it does not
//
// A server that is paused for longer than its lease, and then goes on, is a
// second runner beside the one that took over; its context has ended by then,
// with the cause ErrLost, but what it does without looking at it happens. Its
// response is thrown away, and its client gets that of the other. Redis
// replicates asynchronously: a failover may lose the last moments, and with them
// that a request was run. Operations that need more need a transaction with the
// key in their own database.
//
// # Order
//
// Inside of the rate limit and of the session, if the scope is the session's
// user; a response that sets cookies is stored without them, and the session adds
// its own. The session saves after the response was stored. If that fails the client
// gets a 503, and when it tries again the stored response, without what the handler
// has changed in the session: a handler that changes it calls Session.Save before it
// answers, and answers an error of that with a 503, which is not kept.
//
// Outside of nothing that changes responses by request, such as compression.
package idempotency
