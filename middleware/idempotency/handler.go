package idempotency

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/herdless/herdless/internal/nils"
)

const (
	defaultLease       = 10 * time.Second
	defaultWait        = 30 * time.Second
	defaultBody        = 1 << 20
	defaultTimeout     = time.Second
	minLease           = 100 * time.Millisecond
	maxKeyLen          = 255
	replayedField      = "Idempotent-Replayed"
	requestField       = "Idempotency-Key"
	longestRetryPause  = 2 * time.Second
	retryPauseOfErrors = 50 * time.Millisecond
)

// ScopeFunc says who sends a request, so that the keys of one caller have nothing
// to do with those of another: a user, a client of the API, or whatever an
// attacker cannot choose. "" says that the caller is not known, such as the user of a
// session that nobody is logged in to, and is answered with 403: callers in one scope get
// each other's responses. An error is a fault, and answered with 503.
type ScopeFunc func(*http.Request) (string, error)

// Options are the optional settings of a Guard. Nil and the zero value are the
// defaults.
type Options struct {
	// Methods are the methods that the Guard looks at; requests with others
	// pass. Default POST and PATCH: the other ones of HTTP are idempotent by
	// themselves (RFC 9110, section 9.2.2).
	Methods []string
	// Required answers requests without a key with 400. By default they pass.
	Required bool
	// Lease is for how long a server is waited for that has died. Default 10
	// seconds, at least 100 ms. It is renewed three times in that time.
	Lease time.Duration
	// Wait is for how long a duplicate waits for the first request to finish,
	// before it is answered with 409. Default 30 seconds; negative means that
	// it does not wait.
	Wait time.Duration
	// MaxBody bounds the body of requests, which is held in memory; a longer
	// one is answered with 413. Default 1 MiB.
	MaxBody int64
	// MaxResponse bounds the body of responses that are kept. What is longer
	// is sent as it comes and cannot be replayed: a retry is answered with 409,
	// and the handler is not run again. Default 1 MiB.
	MaxResponse int
	// Keep says whether a response is final, so that retries get it, or
	// whether a retry is to run the handler again. By default all but 408, 425,
	// 429 and 5xx are.
	Keep func(status int) bool
	// Timeout bounds each step in the store. Default 1 second. If the store
	// fails the answer is 503 and the handler does not run.
	Timeout time.Duration
	// Logger gets store faults and lost leases. Default slog.Default().
	Logger *slog.Logger
}

// Guard runs requests once. Make one with New. It is safe for concurrent use.
type Guard struct {
	store Store
	scope ScopeFunc
	ttl   time.Duration
	opts  Options
}

// New returns a Guard that remembers requests in store, for ttl, which is for how
// long clients may retry. It reports all faults of its arguments at once. o may be
// nil.
func New(store Store, scope ScopeFunc, ttl time.Duration, o *Options) (*Guard, error) {
	g := &Guard{store: store, scope: scope, ttl: ttl}
	if o != nil {
		g.opts = *o
	}
	opts := &g.opts
	byDefault(&opts.Lease, defaultLease)
	byDefault(&opts.Wait, defaultWait)
	byDefault(&opts.MaxBody, defaultBody)
	byDefault(&opts.MaxResponse, defaultBody)
	byDefault(&opts.Timeout, defaultTimeout)
	if opts.Methods == nil {
		opts.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	opts.Methods = slices.Clone(opts.Methods)
	if opts.Keep == nil {
		opts.Keep = keepByDefault
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("idempotency: "+format, args...))
		}
	}
	fault(nils.Is(store), "the store is nil; pass NewMemoryStore() or redisidempotency.New(client, nil)")
	fault(scope == nil, "the scope is nil; say whose keys are whose, such as by the session's user")
	fault(opts.Lease < minLease, "Options.Lease is %v; it must be at least %v", opts.Lease, minLease)
	fault(ttl < opts.Lease, "the time to live is %v; it must be no shorter than the lease of %v", ttl, opts.Lease)
	fault(opts.MaxBody < 0, "Options.MaxBody is negative (%d)", opts.MaxBody)
	fault(opts.MaxResponse < 0, "Options.MaxResponse is negative (%d)", opts.MaxResponse)
	fault(opts.Timeout < 0, "Options.Timeout is negative (%v)", opts.Timeout)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return g, nil
}

func byDefault[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

func keepByDefault(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status < 500
}

// ErrLost is the cause of the end of a handler's context whose server could not
// renew its lease in time: somebody else may run the request by now.
var ErrLost = errors.New("idempotency: the lease of the request was lost")

type attemptKey struct{}

// Attempt returns how often the request of the context was begun: 1 the first
// time, more after a server that died, a panic, or a response that was not kept;
// 0 if no Guard is around, or the request has no key.
func Attempt(ctx context.Context) int {
	n, _ := ctx.Value(attemptKey{}).(int)
	return n
}

// Handler returns a handler that runs next once for each key; see the package
// documentation. The body of the request is read before, that of the response is
// held back until it is stored, so that a Flush has no effect. Trailers are dropped.
//
// The body belongs to the request that the key is for. If middleware outside has read it
// as a form, the form does; files of a form do not then. If it has read it otherwise, and
// not put it back, the answer is 500.
func (g *Guard) Handler(next http.Handler) http.Handler {
	nils.MustWrap("idempotency: Guard.Handler", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(g.opts.Methods, r.Method) {
			next.ServeHTTP(w, r)
			return
		}
		key, present, err := keyOf(r)
		switch {
		case err != nil:
			refuse(w, http.StatusBadRequest, "Idempotency-Key is invalid", err.Error())
			return
		case !present && g.opts.Required:
			refuse(w, http.StatusBadRequest, "Idempotency-Key is missing", "This operation needs an Idempotency-Key.")
			return
		case !present:
			next.ServeHTTP(w, r)
			return
		}
		scope, err := g.scope(r)
		switch {
		case err != nil:
			g.opts.Logger.LogAttrs(r.Context(), slog.LevelError, "idempotency: whose request it is cannot be told", slog.Any("error", err))
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "The caller cannot be told at the moment", "")
			return
		case scope == "":
			refuse(w, http.StatusForbidden, "The caller is not known", "")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.opts.MaxBody))
		if err != nil {
			var tooLong *http.MaxBytesError
			if errors.As(err, &tooLong) {
				refuse(w, http.StatusRequestEntityTooLarge, "The request is too long for its Idempotency-Key",
					"At most "+strconv.FormatInt(tooLong.Limit, 10)+" bytes are possible.")
				return
			}
			refuse(w, http.StatusBadRequest, "The request could not be read", "")
			return
		}
		if r.ContentLength > 0 && len(body) == 0 && r.PostForm == nil {
			g.opts.Logger.LogAttrs(r.Context(), slog.LevelError, "idempotency: something outside of the Guard has read the body, and not as a form: "+
				"whether it is the same request cannot be told; let it read the body inside, or put it back", slog.String("path", r.URL.Path))
			refuse(w, http.StatusInternalServerError, "The request could not be compared", "")
			return
		}
		run := &run{
			guard: g, next: next, w: w, r: r, body: body, key: storeKey(scope, key),
			begin: Begin{Owner: rand.Text(), Fingerprint: fingerprint(r, body), Lease: g.opts.Lease, TTL: g.ttl},
		}
		run.serve() //nolint:contextcheck // what it does outlives the client
	})
}

// keyOf returns the key of a request. The draft wants a structured-field string;
// what most clients send is the bare text, which is taken as well.
func keyOf(r *http.Request) (key string, present bool, err error) {
	lines := r.Header.Values(requestField)
	if len(lines) == 0 {
		return "", false, nil
	}
	if len(lines) > 1 {
		return "", true, errors.New("there is more than one")
	}
	key = strings.TrimSpace(lines[0])
	if strings.HasPrefix(key, `"`) {
		item, err := httpsfv.UnmarshalItem(lines)
		text, ok := item.Value.(string)
		if err != nil || !ok {
			return "", true, errors.New("it is not a string after RFC 9651, section 3.3.3")
		}
		key = text
	}
	if key == "" || len(key) > maxKeyLen {
		return "", true, fmt.Errorf("it must have from 1 to %d characters", maxKeyLen)
	}
	for _, c := range []byte(key) {
		if c < 0x20 || c > 0x7e {
			return "", true, errors.New("it may hold printable ASCII characters only")
		}
	}
	return key, true, nil
}

// storeKey joins scope and key into one of fixed length, so that no two pairs meet.
func storeKey(scope, key string) string {
	h := sha256.New()
	writePart(h, []byte(scope))
	writePart(h, []byte(key))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// fingerprint is a digest of all that makes a request another one.
func fingerprint(r *http.Request, body []byte) Fingerprint {
	h := sha256.New()
	for _, part := range []string{r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Content-Type")} {
		writePart(h, []byte(part))
	}
	writePart(h, body)
	// Handlers that are mounted twice see one URL, as under http.StripPrefix.
	if asked, err := url.ParseRequestURI(r.RequestURI); err == nil && (asked.EscapedPath() != r.URL.EscapedPath() || asked.RawQuery != r.URL.RawQuery) {
		writePart(h, []byte(asked.EscapedPath()))
		writePart(h, []byte(asked.RawQuery))
	}
	if r.PostForm != nil { // somebody outside has read the body
		writePart(h, []byte(r.PostForm.Encode()))
	}
	return Fingerprint(h.Sum(nil))
}

// writePart writes part with its length in front.
func writePart(w io.Writer, part []byte) {
	_ = binary.Write(w, binary.BigEndian, uint64(len(part))) // a hash never fails
	_, _ = w.Write(part)
}

// request returns the request for the handler.
func (u *run) request(ctx context.Context, attempt int) *http.Request {
	r := u.r.WithContext(context.WithValue(ctx, attemptKey{}, attempt))
	r.Body = io.NopCloser(bytes.NewReader(u.body))
	return r
}
