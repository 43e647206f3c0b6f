package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/durations"
	"github.com/herdless/herdless/internal/nils"
	"github.com/maypok86/otter/v2"
)

// The defaults of Options.
const (
	defaultIdleTimeout     = 30 * time.Minute
	defaultAbsoluteTimeout = 24 * time.Hour
	defaultSlideEvery      = 0.1
	defaultRenewGrace      = 30 * time.Second
	defaultMaxBytes        = 64 << 10
	defaultStoreTimeout    = time.Second
	defaultName            = "session"

	minKeyBytes = 32
)

// Options are the optional settings of a Manager. The zero value of each field
// means its default.
type Options struct {
	// Name tells several Managers of one program apart, which may then share a
	// store and a Key: a token of one is nothing to another, and their cookies
	// have different names. Default "session".
	Name string

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

	// RenewEvery gives a session that is used a new token when the present one
	// is so old. Zero, the default, means only where the program says so, by
	// Login and Renew. While the RenewGrace of the last renewal is not over,
	// none follows.
	RenewEvery time.Duration
	// RenewGrace is for how long the old token is accepted after that, so that
	// requests under way are not turned away; they are told the new one. Later
	// it is taken for stolen, see Theft. Default 30 seconds; at least a second.
	RenewGrace time.Duration
	// RevokeOnTheft ends the session of a token that is taken for stolen.
	RevokeOnTheft bool

	// MaxPerUser is how many sessions a user can have at once; zero means any
	// number. A login on top ends the one that began first with EvictOldest,
	// and is refused with ErrTooManySessions without.
	MaxPerUser  int
	EvictOldest bool
	// Device says from where a login came, for the user to see in the list of
	// sessions. By default that is the address of the peer and the User-Agent.
	// Behind a proxy the address is the proxy's: use that of
	// middleware/clientip.
	Device func(r *http.Request) Device

	// Key, of at least 32 bytes, keys the digest of the secret that the store
	// keeps. With nil a public key is used. Reading the store then still
	// yields no token that works, because a secret has 256 random bits; but
	// who can write to the store can make sessions up. With a Key that takes
	// a session of one's own, whose values and user can then be changed there
	// (Encryption prevents that as well). All servers need the same Key; a new
	// one ends every session. So it is configured, and never made at the start:
	// to servers with different Keys the sessions of the others are none, users
	// seem to be logged out at random, and nothing reports it.
	Key []byte
	// Encryption, if not empty, encrypts each value, and who is logged in,
	// with the first of the keys (AES-256-GCM), bound to the session and the
	// value's name; names, sizes and times stay in the clear. The other keys
	// are for what was written before: values are encrypted anew when they are
	// set, and who is logged in with them. A session with a value under a key
	// that a server does not have is as good as none to it, and its user logged
	// out. So a new key goes behind the old one first, on all servers, and only
	// then in front of it; and the old one stays for the longest absolute timeout
	// after that, those of SetTimeouts included. Where all keys were
	// taken away, it may be that only the value is, if it is long.
	Encryption []EncryptionKey
	// AcceptUnencrypted reads what is not encrypted in spite of Encryption, for
	// the time after encryption was introduced. As long as it is set, who can
	// write to the store can change values. While encryption is introduced server by
	// server, those that have no keys yet log out whom the others have encrypted.
	AcceptUnencrypted bool

	// Codec encodes the values that have none of their own (NewKeyWith).
	// Default JSON.
	Codec Codec
	// Schema is the version in which this program writes values, from 0, the
	// default, on. Each value carries its own, so that servers of two versions
	// can share sessions while one replaces the other.
	Schema int
	// Migrate is given an encoded value of an older version than Schema and
	// returns it in the form of Schema. With nil an old value is decoded as it
	// is, as is one of a newer version. Migrate must be safe for concurrent
	// use. An error makes the value as good as none, see Session.Get.
	Migrate func(name string, version int, value []byte) ([]byte, error)
	// MaxBytes bounds the names and encoded values of one session, together.
	// Default 64 KiB.
	MaxBytes int

	// CookieName names the cookie. Default "__Host-" and Name; without the
	// prefix with DangerouslyAllowHTTP, with "__Secure-" if Domain is set.
	CookieName string
	// Domain makes the cookie one of all hosts of a domain. Any of them can
	// then read and set it; without Domain it is bound to the host.
	Domain string
	// SameSite is the cookie's SameSite attribute: Lax (the default), Strict
	// or None.
	SameSite http.SameSite
	// Partitioned gives pages that are embedded in other sites a cookie for
	// each of them (CHIPS). It goes with SameSite None.
	Partitioned bool
	// DangerouslyAllowHTTP leaves out the cookie's Secure attribute and the
	// __Host- prefix, for development where browsers use http://. With it,
	// everybody on the way can read the cookie. Behind a proxy that ends TLS
	// browsers use https://, and it stays false.
	DangerouslyAllowHTTP bool
	// Header is for clients that are no browsers, in place of a cookie: the
	// name of the request field that holds the token. Responses tell a new
	// token in the field of the same name, and that there is none any more by
	// its being empty. With "Authorization" the token stands behind the scheme
	// Bearer, and responses have the field Session-Token.
	Header string

	// StoreTimeout bounds each step that a request takes in the store, if the
	// store obeys a context's deadline; a go-redis client does with
	// ContextTimeoutEnabled. Default 1 second. After three failures in a row
	// the store is left alone and asked once a second only, by one request;
	// all others go on without it.
	StoreTimeout time.Duration
	// WhenDown says how, see IfDown. Default Closed.
	WhenDown WhenDown
	// StaleFor is for how long Stale may go on with what was read before.
	// Default 1 minute with WhenDown Stale, else none is kept: set it where
	// only some routes have Stale. An hour at most; about 16 MiB are kept.
	StaleFor time.Duration
	// ErrorHandler answers, in place of the handler, a request whose session
	// could not be loaded or saved. What the handler did to the headers is
	// undone before. If it writes nothing, or is nil, the answer is 401 for
	// ErrGone, 409 for ErrTooManySessions and ErrConflict, 500 for ErrTooLarge,
	// and for everything else 503 with Retry-After: 1.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Observe is told what happens to sessions. It is called in the middle of
	// requests and must be quick, safe for concurrent use, and not use the
	// session. Nil, the default, costs nothing.
	Observe func(ctx context.Context, e Event)
	// Logger gets what cannot be answered any more and store faults, those once
	// a second at most. Nothing secret is logged. FromContext finds no session
	// in the context that it gets. Default slog.Default().
	Logger *slog.Logger
}

// A Manager gives each request its Session. Make one with New. It is safe for
// concurrent use.
type Manager struct {
	store     *guarded
	tokens    tokens
	vault     *vault
	transport transport
	watcher   *watcher
	recent    *otter.Cache[string, remembered] // nil unless StaleFor is set
	counts    counts
	warned    atomic.Pointer[time.Time] // when a fault of the store was last logged
	opts      Options                   // every field set, but functions may be nil
}

// New returns a Manager that keeps its sessions in store. A nil o means the
// defaults. The error names every fault of the arguments at once.
func New(store Store, o *Options) (*Manager, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	faults := opts.faults()
	if nils.Is(store) {
		faults = append(faults, errors.New("session: the store is nil; pass NewMemoryStore() or redisstore.New(client, nil)"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	opts.setDefaults()
	m := &Manager{
		tokens: newTokens(opts.Key, opts.Name),
		vault:  &vault{opts.Encryption, opts.AcceptUnencrypted},
		opts:   opts,
	}
	m.store = guard(store, opts.StoreTimeout, opts.Logger, m.storeFailed)
	m.watcher = newWatcher(m.store)
	if opts.StaleFor > 0 {
		m.recent = newRecent(opts.StaleFor)
	}
	if opts.Header != "" {
		m.transport = newHeaderTransport(opts.Header)
	} else {
		m.transport = &cookieTransport{http.Cookie{
			Name:        opts.CookieName,
			Path:        "/",
			Domain:      opts.Domain,
			Secure:      !opts.DangerouslyAllowHTTP,
			HttpOnly:    true,
			SameSite:    opts.SameSite,
			Partitioned: opts.Partitioned,
		}}
	}
	return m, nil
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
	shortIdle, shortAbsolute := durations.Fault(o.IdleTimeout), durations.Fault(o.AbsoluteTimeout)
	fault(shortIdle != "", "IdleTimeout %s", shortIdle)
	fault(shortAbsolute != "", "AbsoluteTimeout %s", shortAbsolute)
	absolute := o.AbsoluteTimeout
	if absolute == 0 {
		absolute = defaultAbsoluteTimeout
	}
	fault(absolute > 0 && o.IdleTimeout > absolute,
		"IdleTimeout (%v) is longer than AbsoluteTimeout (%v); set both", o.IdleTimeout, absolute)
	fault(!(o.SlideEvery >= 0 && o.SlideEvery < 1), "SlideEvery is %v; it must be between 0 and 1", o.SlideEvery)
	fault(o.RenewEvery < 0, "RenewEvery is negative (%v)", o.RenewEvery)
	fault(o.RenewGrace != 0 && o.RenewGrace < time.Second, "RenewGrace is %v; it must be at least a second", o.RenewGrace)
	fault(o.MaxPerUser < 0, "MaxPerUser is negative (%d)", o.MaxPerUser)
	fault(o.EvictOldest && o.MaxPerUser == 0, "EvictOldest goes with MaxPerUser, which is not set")
	fault(o.Key != nil && len(o.Key) < minKeyBytes,
		"Key has %d bytes; use at least %d random ones, the same on every server", len(o.Key), minKeyBytes)
	for i, k := range o.Encryption {
		fault(k.ID == "" || len(k.ID) > maxKeyID, "the ID of Encryption key %d has %d bytes; from 1 to %d are possible", i, len(k.ID), maxKeyID)
		fault(len(k.Key) != cipherKey, "Encryption key %q has %d bytes; use %d random ones", k.ID, len(k.Key), cipherKey)
		again := slices.ContainsFunc(o.Encryption[:i], func(other EncryptionKey) bool { return other.ID == k.ID })
		fault(again, "two Encryption keys have the ID %q", k.ID)
	}
	fault(o.AcceptUnencrypted && len(o.Encryption) == 0, "AcceptUnencrypted goes with Encryption, which is not set")
	fault(o.Codec != nil && nils.Is(o.Codec), "Codec is a nil %T; leave it out for JSON", o.Codec)
	fault(o.Schema < 0 || o.Schema > math.MaxInt32, "Schema is %d; it must be between 0 and %d", o.Schema, math.MaxInt32)
	fault(o.MaxBytes < 0, "MaxBytes is negative (%d)", o.MaxBytes)
	fault(o.StoreTimeout < 0, "StoreTimeout is negative (%v)", o.StoreTimeout)
	fault(o.WhenDown > Stale, "WhenDown is %d; use Closed, Anonymous or Stale", o.WhenDown)
	fault(o.StaleFor < 0 || o.StaleFor > maxStaleFor, "StaleFor is %v; it must be between 0 and %v", o.StaleFor, maxStaleFor)
	o.transportFaults(fault)
	return faults
}

// transportFaults lists what is wrong with the cookie or the header.
func (o *Options) transportFaults(fault func(wrong bool, format string, args ...any)) {
	validName := func(what, name string) {
		if name != "" {
			err := (&http.Cookie{Name: name}).Valid()
			fault(err != nil, "%s %q cannot name a cookie: %w", what, name, err)
		}
	}
	validName("Name", o.Name)
	if o.Header != "" {
		fault(o.CookieName != "" || o.Domain != "" || o.SameSite != 0 || o.Partitioned || o.DangerouslyAllowHTTP,
			"with Header there is no cookie; leave out CookieName, Domain, SameSite, Partitioned and DangerouslyAllowHTTP")
		fault((&http.Cookie{Name: o.Header}).Valid() != nil, "Header %q cannot name a field", o.Header)
		return
	}
	switch o.SameSite {
	case 0, http.SameSiteLaxMode, http.SameSiteStrictMode:
	case http.SameSiteNoneMode:
		fault(o.DangerouslyAllowHTTP, "browsers refuse SameSite=None without Secure; drop DangerouslyAllowHTTP or SameSite")
	default:
		fault(true, "SameSite is %d; use http.SameSiteLaxMode, StrictMode or NoneMode", o.SameSite)
	}
	fault(o.Partitioned && o.DangerouslyAllowHTTP, "browsers refuse Partitioned without Secure; drop DangerouslyAllowHTTP or Partitioned")
	if o.Domain != "" {
		err := (&http.Cookie{Name: "n", Domain: o.Domain}).Valid()
		fault(err != nil, "Domain %q cannot be one of a cookie: %w", o.Domain, err)
	}
	validName("CookieName", o.CookieName)
	name := strings.ToLower(o.CookieName)
	host, secure := strings.HasPrefix(name, "__host-"), strings.HasPrefix(name, "__secure-")
	fault(host && o.Domain != "", "browsers refuse the cookie %q with a Domain; drop one of them", o.CookieName)
	fault(o.DangerouslyAllowHTTP && (host || secure),
		"browsers refuse the cookie %q without Secure; drop DangerouslyAllowHTTP or the prefix", o.CookieName)
}

// setDefaults fills what the user left out, and copies what could be changed
// later. o has no faults.
func (o *Options) setDefaults() {
	o.Key = slices.Clone(o.Key)
	if o.Key == nil {
		o.Key = defaultKey
	}
	o.Encryption = slices.Clone(o.Encryption)
	for i := range o.Encryption {
		o.Encryption[i].Key = slices.Clone(o.Encryption[i].Key)
	}
	byDefault(&o.Name, defaultName)
	byDefault(&o.AbsoluteTimeout, defaultAbsoluteTimeout)
	byDefault(&o.IdleTimeout, min(defaultIdleTimeout, o.AbsoluteTimeout))
	byDefault(&o.SlideEvery, defaultSlideEvery)
	byDefault(&o.RenewGrace, defaultRenewGrace)
	byDefault(&o.MaxBytes, defaultMaxBytes)
	byDefault(&o.StoreTimeout, defaultStoreTimeout)
	byDefault(&o.SameSite, http.SameSiteLaxMode)
	byDefault(&o.Codec, JSON)
	if o.WhenDown == Stale {
		byDefault(&o.StaleFor, defaultStaleFor)
	}
	switch {
	case o.CookieName != "":
	case o.DangerouslyAllowHTTP:
		o.CookieName = o.Name
	case o.Domain != "":
		o.CookieName = "__Secure-" + o.Name
	default:
		o.CookieName = "__Host-" + o.Name
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Device == nil {
		o.Device = deviceOf
	}
}

func byDefault[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

// deviceOf is the default of Options.Device.
func deviceOf(r *http.Request) Device {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return Device{Address: host, UserAgent: r.UserAgent()}
}

// maxTokens bounds how many well-formed tokens of one request the store is
// asked about. A browser sends several cookies of one name where they were set
// for different paths or domains.
const maxTokens = 4

// Load returns the session of r. It does no I/O: the store is asked when the
// session is first used, and never if it is not. Most programs use Handler
// instead; Load and Commit are for frameworks that net/http middleware does not
// fit.
func (m *Manager) Load(r *http.Request) *Session {
	s := &Session{}
	s.begin(m, r)
	return s
}

// begin makes s, which is zero, the session of r.
func (s *Session) begin(m *Manager, r *http.Request) {
	s.m, s.request = m, r
	s.presented = m.transport.read(s.few[:0], r)
	s.hasToken = len(s.presented) > 0
}

// parse adds to found the tokens among what a client sent, in its order. A value that
// cannot be one of ours is passed over, so that it does not hide a good one.
func (m *Manager) parse(found []token, values []string) []token {
	for _, value := range values {
		t, ok := m.tokens.parse(value)
		if ok && !slices.Contains(found, t) {
			found = append(found, t)
			if len(found) == maxTokens {
				break
			}
		}
	}
	return found
}

// warnEvery is how often a failing store is logged at most.
const warnEvery = time.Second

// storeFailed tells of a fault of the store. Handlers that answer themselves say nothing
// of it, and there may be thousands of them a second.
func (m *Manager) storeFailed(ctx context.Context, err error) {
	if last, now := m.warned.Load(), time.Now(); last == nil || now.Sub(*last) >= warnEvery {
		if m.warned.CompareAndSwap(last, &now) {
			m.opts.Logger.LogAttrs(NewContext(ctx, nil), slog.LevelWarn, "session: the store fails", slog.Any("error", err))
		}
	}
	m.happened(ctx, Event{Kind: StoreFailed, Err: err})
}
