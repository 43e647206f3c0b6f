package session

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The defaults of Options.
const (
	defaultIdleTimeout     = 30 * time.Minute
	defaultAbsoluteTimeout = 24 * time.Hour
	defaultSlideEvery      = 0.1
	defaultMaxBytes        = 64 << 10
	defaultStoreTimeout    = time.Second
	defaultCookieName      = "__Host-session"
	defaultHTTPCookieName  = "session"

	minKeyBytes = 32
)

// Options are the optional settings of a Manager. The zero value of each field
// means its default.
type Options struct {
	// IdleTimeout ends a session that nobody uses for so long. Default 30
	// minutes, or AbsoluteTimeout where that is shorter.
	IdleTimeout time.Duration
	// AbsoluteTimeout ends a session so long after it began, used or not.
	// Default 24 hours. Both timeouts are fixed when a session begins: a
	// change counts for later sessions.
	AbsoluteTimeout time.Duration
	// SlideEvery is the share of the idle time that must have passed for a
	// request that only reads its session to start the idle time anew, between
	// 0 and 1 (exclusive). Default 0.1: at most ten such writes an idle time.
	SlideEvery float64
	// Key, of at least 32 bytes, keys the digest of the secret that the store
	// keeps. With nil a public key is used. Reading the store then still
	// yields no cookie that works, because a secret has 256 random bits; but
	// who can write to the store can make sessions up. With a Key that takes
	// a session of one's own, whose values and user can then be changed there.
	// All servers need the same Key; a new one ends every session.
	Key []byte
	// CookieName names the cookie. Default "__Host-session", or "session" with
	// DangerouslyAllowHTTP. Two Managers that one browser meets on one host
	// need two names. FromContext finds the session of the innermost one.
	CookieName string
	// DangerouslyAllowHTTP leaves out the cookie's Secure attribute and the
	// __Host- prefix, for development on plain http. With it, everybody on the
	// way can read the cookie.
	DangerouslyAllowHTTP bool
	// SameSite is the cookie's SameSite attribute: Lax (the default), Strict
	// or None.
	SameSite http.SameSite
	// MaxBytes bounds the names and encoded values of one session, together.
	// Default 64 KiB.
	MaxBytes int
	// StoreTimeout bounds each step that a request takes in the store, if the
	// store obeys a context's deadline; a go-redis client does with
	// ContextTimeoutEnabled. Default 1 second.
	StoreTimeout time.Duration
	// ErrorHandler answers, in place of the handler, a request whose session
	// could not be saved. What the handler did to the headers is undone before.
	// If it writes nothing, or is nil, the answer is 401 for ErrGone, 500 for
	// ErrTooLarge, and for everything else 503 with Retry-After: 1.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
	// Logger gets what cannot be answered any more and store faults. Nothing
	// secret is logged. Default slog.Default().
	Logger *slog.Logger
}

// A Manager gives each request its Session. Make one with New. It is safe for
// concurrent use.
type Manager struct {
	store  Store
	tokens tokens
	cookie http.Cookie // without a value
	opts   Options     // every field set, but ErrorHandler may be nil
}

// New returns a Manager that keeps its sessions in store. A nil o means the
// defaults. The error names every fault of the arguments at once.
func New(store Store, o *Options) (*Manager, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	faults := opts.faults()
	if store == nil {
		faults = append(faults, errors.New("session: the store is nil; pass NewMemoryStore() or redisstore.New(client, nil)"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	opts.setDefaults()
	return &Manager{
		store:  budgeted{store, opts.StoreTimeout},
		tokens: tokens{opts.Key},
		cookie: http.Cookie{
			Name:     opts.CookieName,
			Path:     "/",
			Secure:   !opts.DangerouslyAllowHTTP,
			HttpOnly: true,
			SameSite: opts.SameSite,
		},
		opts: opts,
	}, nil
}

// faults lists what is wrong with o as the user wrote it.
func (o *Options) faults() (faults []error) {
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("session: "+format, args...))
		}
	}
	fault(o.IdleTimeout < 0, "IdleTimeout is negative (%v)", o.IdleTimeout)
	fault(o.AbsoluteTimeout < 0, "AbsoluteTimeout is negative (%v)", o.AbsoluteTimeout)
	absolute := o.AbsoluteTimeout
	if absolute == 0 {
		absolute = defaultAbsoluteTimeout
	}
	fault(absolute > 0 && o.IdleTimeout > absolute,
		"IdleTimeout (%v) is longer than AbsoluteTimeout (%v); set both", o.IdleTimeout, absolute)
	fault(!(o.SlideEvery >= 0 && o.SlideEvery < 1), "SlideEvery is %v; it must be between 0 and 1", o.SlideEvery)
	fault(o.StoreTimeout < 0, "StoreTimeout is negative (%v)", o.StoreTimeout)
	fault(o.MaxBytes < 0, "MaxBytes is negative (%d)", o.MaxBytes)
	fault(o.Key != nil && len(o.Key) < minKeyBytes,
		"Key has %d bytes; use at least %d random ones, the same on every server", len(o.Key), minKeyBytes)
	switch o.SameSite {
	case 0, http.SameSiteLaxMode, http.SameSiteStrictMode:
	case http.SameSiteNoneMode:
		fault(o.DangerouslyAllowHTTP, "browsers refuse SameSite=None without Secure; drop DangerouslyAllowHTTP or SameSite")
	default:
		fault(true, "SameSite is %d; use http.SameSiteLaxMode, StrictMode or NoneMode", o.SameSite)
	}
	if o.CookieName != "" {
		err := (&http.Cookie{Name: o.CookieName}).Valid()
		fault(err != nil, "CookieName %q cannot name a cookie: %w", o.CookieName, err)
		name := strings.ToLower(o.CookieName)
		fault(o.DangerouslyAllowHTTP && (strings.HasPrefix(name, "__host-") || strings.HasPrefix(name, "__secure-")),
			"browsers refuse the cookie %q without Secure; drop DangerouslyAllowHTTP or the prefix", o.CookieName)
	}
	return faults
}

// setDefaults fills what the user left out, and copies what could be changed
// later. o has no faults.
func (o *Options) setDefaults() {
	o.Key = slices.Clone(o.Key)
	if o.Key == nil {
		o.Key = defaultKey
	}
	if o.AbsoluteTimeout == 0 {
		o.AbsoluteTimeout = defaultAbsoluteTimeout
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = min(defaultIdleTimeout, o.AbsoluteTimeout)
	}
	if o.SlideEvery == 0 {
		o.SlideEvery = defaultSlideEvery
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.StoreTimeout == 0 {
		o.StoreTimeout = defaultStoreTimeout
	}
	if o.SameSite == 0 {
		o.SameSite = http.SameSiteLaxMode
	}
	if o.CookieName == "" {
		o.CookieName = defaultCookieName
		if o.DangerouslyAllowHTTP {
			o.CookieName = defaultHTTPCookieName
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// maxCookies bounds how many well-formed tokens of one request the store is
// asked about. A browser sends several cookies of one name where they were set
// for different paths or domains.
const maxCookies = 4

// Load returns the session of r. It does no I/O: the store is asked when the
// session is first used, and never if it is not. Most programs use Handler
// instead; Load and Commit are for frameworks that net/http middleware does not
// fit.
func (m *Manager) Load(r *http.Request) *Session {
	cookies := r.CookiesNamed(m.cookie.Name)
	return &Session{m: m, cookies: cookies, hasCookie: len(cookies) > 0}
}

// presented returns the tokens among the cookies, in their order. A value that
// cannot be one of ours is passed over, so that it does not hide a good one.
func (m *Manager) presented(cookies []*http.Cookie) []token {
	var found []token
	for _, c := range cookies {
		t, ok := m.tokens.parse(c.Value)
		if ok && !slices.Contains(found, t) {
			found = append(found, t)
			if len(found) == maxCookies {
				break
			}
		}
	}
	return found
}

// cookieFor returns the cookie that hands t to the client. It has no Max-Age:
// the browser keeps it until it is closed, and how long it is good for is up to
// the server.
func (m *Manager) cookieFor(t token) *http.Cookie {
	c := m.cookie
	c.Value = t.text
	return &c
}

// expiredCookie returns the cookie that makes the client forget its token.
func (m *Manager) expiredCookie() *http.Cookie {
	c := m.cookie
	c.MaxAge = -1
	return &c
}
