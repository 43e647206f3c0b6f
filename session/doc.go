// Package session keeps what a server knows about a visitor from one request to
// the next, for a cluster of servers that share a Store: package redisstore
// keeps sessions in Redis, NewMemoryStore in one process.
//
//	sessions, err := session.New(redisstore.New(rdb, nil), nil)
//	…
//	var cart = session.NewKey[[]string]("cart")
//
//	func add(w http.ResponseWriter, r *http.Request) {
//		items, err := cart.Get(r.Context())
//		if err == nil {
//			err = cart.Set(r.Context(), append(items, r.FormValue("item")))
//		}
//		…
//	}
//	http.ListenAndServe(":8080", sessions.Handler(mux))
//
// Browsers send the cookie back by https:// only (some make an exception for
// localhost): in development without it set Options.DangerouslyAllowHTTP.
//
// # What it promises
//
// A request that does not touch its session costs nothing, one that reads it one
// round trip to the store, one that changes it two. A session begins with the
// first change, never with a visit, and so does its cookie.
//
// Changes are saved before the header of the response goes out, in one step that
// writes only what changed. Two overlapping requests that set different values
// both succeed; of two that set the same value the later wins. If the save
// fails the response is an error, never a 200. What Set itself refuses, because it
// cannot be encoded or is too large, is for the handler to answer: if it ignores the
// error, the response goes out without the value. If the session cannot be loaded,
// nothing of it can be overwritten in that request.
//
// Update and Add are for values that several requests change at once: none of
// their steps is lost.
//
// A logout is final. A request that was under way when it came reads on in what
// it has loaded, but what it writes is refused with ErrGone, answered with a 401,
// and the session stays gone. Such an answer leaves the cookie alone: it may
// arrive after that of an overlapping login, whose cookie it would take away.
// What is left of an ended session's cookie is nobody's session.
//
// # Users
//
// Login makes a session a user's. Manager.Sessions lists all that a user has, on
// whichever server they began; Revoke, RevokeAll and Session.RevokeOthers end
// them, for every request that begins after the call, and Session.Context tells
// open connections. Options.MaxPerUser is a cap. A login that overlaps falls
// before or after each of these: there is no session that is alive and not in the
// list.
//
// # When the store is away
//
// After three failures in a row a circuit breaker leaves the store alone and lets
// one step a second try. What becomes of the requests is up to Options.WhenDown,
// and IfDown for a route: 503, or go on as nobody, or with what was read a moment
// ago. Nothing can be changed in any case. Requests that do not use their session,
// or have no token, do not notice.
//
// # Whom it defends against
//
// The cookie is an opaque token of a public id and a secret of 256 random bits.
// The store holds a keyed digest of the secret and never the secret, so that who
// reads the store gains no cookie. Without Options.Encryption the values are
// neither encrypted nor signed: who can write to the store can change them, and
// the user, of a session whose cookie he has; Options.Key stops him from making
// sessions up. With it, a value is readable and good only in its own session and
// under its own name; what was written there before can be put back. A token that
// this server cannot have made costs no round trip (without Options.Key: unless
// somebody computes its checksum), and a token that the store does not know is
// never adopted, so that no visitor is made to use a session
// that somebody else has planted. Login and Renew give a session a new
// secret, and refuse the old one at once. Options.RenewEvery gives it one now and
// then, with a grace for requests under way; an old one that comes later is
// taken for stolen.
//
// The cookie is Secure, HttpOnly, SameSite=Lax and bound to the host, and lasts
// until the browser is closed; on the server, a session ends after 30 minutes
// without use and 24 hours in any case (Options.IdleTimeout, AbsoluteTimeout), by
// the clock of the store. Both are counted from the session's beginning, which
// may be before the login. SameSite=Lax is no full defence against cross-site
// requests; use net/http's CrossOriginProtection, and change nothing on a GET.
// docs/security.md goes through the session requirements of OWASP ASVS 5.0.
//
// A response for which the session was used, read or written, is marked
// Cache-Control: private and Vary: Cookie, whatever the handler said, so that no
// shared cache hands it to anybody else. It must be used for the first time
// before the header goes out.
package session
