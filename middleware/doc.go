// Package middleware puts net/http middleware together. Its sub-packages are
// the middleware that every server needs and only a cluster makes hard: rate
// limits, the client's address behind proxies, requests that must run once, and
// figures of the traffic.
//
// # Order
//
// The order decides what each middleware sees and what a request costs. The
// recommended one, from the outside in:
//
//  1. Recovery and access logs, so that they see what everything else did.
//  2. The figures (package traffic), outside of everything whose answers count: what
//     the rate limit refuses, what the cache has, and what the session fails at.
//  3. The rate limit (package ratelimit). What it refuses costs nothing further
//     in. Its key is most often the client's address (package clientip): a
//     wrong one limits the proxy, or nobody. Only a limit by user must stand
//     inside the session, which knows the user, and a limit of how much is under
//     way at a time (ratelimit.Concurrency) close to the handler that it protects.
//  4. The response cache (package responsecache), around the handlers whose
//     answers many clients may share. A hit costs nothing further in.
//  5. The session (package session). It is lazy: a request that never touches
//     its session costs no round trip.
//  6. Idempotency keys (package idempotency), around the handlers of what must
//     not happen twice: inside of the session, where the user is known whose keys
//     they are.
//
// The response cache is safe outside the session because a session that the
// handler touched, even by reading it only, marks the response "Cache-Control:
// private", and the cache refuses to store what is private (RFC 9111, section
// 3). It is safe only as long as both are true: a middleware that rewrites
// Cache-Control between the two hands one user's page to another.
//
// It is safe inside the session as well, but then whatever touches the session
// outside of it (an authorisation, a limit by user) makes every response private,
// and nothing is stored.
//
// These orders are wrong, and order_test.go shows what each of them does:
//
//   - Something that rewrites Cache-Control between the session and a response
//     cache outside of it: one user's page goes to another.
//   - What asks who may see a page, if it is not the session, inside of the
//     response cache (a list of addresses, a client's certificate): who may not
//     gets the page that was stored for one who may. The cache tells clients apart
//     by Authorization and Vary only.
//   - The figures inside of the rate limit or the cache: a flood that is refused does
//     not show, hits are neither requests nor hits, and the cache would store what was
//     counted once and hand it out a thousand times.
//   - Idempotency keys outside of the session: a scope that asks for the session's
//     user finds none, and one that is the same for all gives one user's response
//     to another who sends the same key.
//   - Recovery from panics inside of the session: it learns of no panic, and saves
//     what a broken handler has done half. Nor may it stand inside of the response
//     cache, whose handler has to be seen to fail.
//   - The session outside of the rate limit: clients that are to be refused make
//     the servers load sessions first, as soon as anything touches one on the
//     way. A limit by user, on the other hand, refuses everybody outside of the
//     session.
//   - The response cache outside of the rate limit, where the limit is meant to
//     protect more than the handlers: hits are then never counted. Where it is
//     meant to protect the handlers only, that order is right; its fields, which
//     are about one client, are to be hidden then (ratelimit.Options.HideFields),
//     or the cache gives them to all.
package middleware
