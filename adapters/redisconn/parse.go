package redisconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

type kind int

const (
	standalone kind = iota
	socket
	sentinel
	cluster
)

// target is what a URL says.
type target struct {
	kind    kind
	options redis.UniversalOptions
}

// parse reads a URL. Its errors are written for people who see only the error
// and not the URL, and hold nothing of it: an unescaped "/" or "@" makes a piece
// of a password look like any other part. Only of the query they hold a name, where
// that cannot be such a piece: see canTell.
func parse(raw string) (*target, error) {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found {
		return nil, errors.New("the URL has no scheme: it begins with redis://, rediss://, unix://, " +
			"redis+sentinel:// or redis+cluster://")
	}
	t := &target{options: redis.UniversalOptions{
		DialTimeout:           defaultDialTimeout,
		DialerRetries:         dialRetries,
		ReadTimeout:           defaultTimeout,
		WriteTimeout:          defaultTimeout,
		PoolTimeout:           defaultTimeout,
		MaxRetries:            defaultRetries,
		Protocol:              defaultProtocol,
		ContextTimeoutEnabled: true,
	}}
	port := "6379"
	switch scheme {
	case "redis", "rediss":
	case "unix":
		t.kind = socket
	case "redis+sentinel", "rediss+sentinel":
		t.kind, port = sentinel, "26379"
	case "redis+cluster", "rediss+cluster":
		t.kind = cluster
	default:
		return nil, errors.New("the URL's scheme is unknown: it must be redis, rediss, unix, " +
			"redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster")
	}
	if strings.HasPrefix(scheme, "rediss") {
		t.options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12} // go-redis sets the name
	}

	if strings.Contains(rest, "#") {
		return nil, errors.New(`the URL has a fragment: write "#" in a user or password as %23`)
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	hosts := authority
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		hosts = authority[at+1:]
		if err := t.setCredentials(authority[:at]); err != nil {
			return nil, err
		}
	}

	if t.kind == socket {
		if err := t.setSocket(hosts, path); err != nil {
			return nil, err
		}
	} else {
		if err := t.setHosts(hosts, port); err != nil {
			return nil, err
		}
		if err := t.setPath(path); err != nil {
			return nil, err
		}
	}
	if err := t.setQuery(query); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *target) setCredentials(s string) error {
	user, password, _ := strings.Cut(s, ":")
	var err1, err2 error
	t.options.Username, err1 = url.PathUnescape(user)
	t.options.Password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return errors.New(`the URL's user or password is not percent-encoded: write "%" as %25`)
	}
	if strings.Contains(s, "@") {
		return errors.New(`the URL has more than one "@": write it in a user or password as %40`)
	}
	if t.options.Username != "" && t.options.Password == "" {
		return errors.New("the URL has a user but no password: a password alone is written :password@host")
	}
	return nil
}

func (t *target) setSocket(host, path string) error {
	path, err := url.PathUnescape(path)
	switch {
	case host != "":
		return errors.New("the URL's scheme is unix, but a host is given: write unix:///path/to/redis.sock")
	case err != nil || path == "":
		return errors.New("the URL has no path of a socket: write unix:///path/to/redis.sock")
	}
	t.options.Addrs = []string{"/" + path}
	return nil
}

func (t *target) setHosts(list, defaultPort string) error {
	hosts := strings.Split(list, ",")
	if len(hosts) > 1 && t.kind == standalone {
		return errors.New("the URL has several hosts: that is for redis+sentinel and redis+cluster")
	}
	for i, host := range hosts {
		addr, err := hostPort(host, defaultPort)
		if err != nil {
			return fmt.Errorf("host %d of the URL: %w", i+1, err)
		}
		t.options.Addrs = append(t.options.Addrs, addr)
	}
	return nil
}

func hostPort(s, defaultPort string) (string, error) {
	u, err := url.Parse("//" + s) // knows about brackets
	if err != nil || u.Host != s || strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(s, "[") {
		return "", errors.New(`it is not a host with an optional port ` +
			`(an IPv6 address stands in brackets; "/", "?" and "@" in a password are percent-encoded)`)
	}
	if u.Hostname() == "" {
		return "", errors.New("it is empty")
	}
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(s, ":") {
			return "", errors.New("its port is empty")
		}
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); n == 0 || err != nil {
		return "", errors.New("its port is not a number from 1 to 65535")
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

func (t *target) setPath(path string) error {
	path = strings.TrimSuffix(path, "/")
	switch t.kind {
	case sentinel:
		name, db, _ := strings.Cut(path, "/")
		name, err := url.PathUnescape(name)
		if err != nil || name == "" {
			return errors.New("the URL's path must name the primary as the Sentinels know it: " +
				"redis+sentinel://host1,host2/mymaster")
		}
		t.options.MasterName = name
		return t.setDB(db)
	case cluster:
		if path != "" && path != "0" {
			return errors.New("the URL has a path, but a Cluster has only database 0")
		}
		return nil
	default:
		return t.setDB(path)
	}
}

func (t *target) setDB(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return errors.New("the database is not a number")
	}
	t.options.DB = int(n)
	return nil
}

// maxConns is how many clients a Redis lets in by default. go-redis allocates a
// pool in full, so a slip of the finger would cost gigabytes.
const maxConns = 10_000

func (t *target) setQuery(query string) error {
	o := &t.options
	settings := map[string]func(string) error{
		"client_name":    text(&o.ClientName),
		"dial_timeout":   duration(&o.DialTimeout),
		"read_timeout":   duration(&o.ReadTimeout),
		"write_timeout":  duration(&o.WriteTimeout),
		"pool_timeout":   duration(&o.PoolTimeout),
		"pool_size":      number(&o.PoolSize, 1, maxConns),
		"min_idle_conns": number(&o.MinIdleConns, 0, maxConns),
		"max_retries":    number(&o.MaxRetries, 0, 100),
		"protocol":       number(&o.Protocol, 2, 3),
	}
	switch t.kind {
	case sentinel:
		settings["sentinel_username"] = text(&o.SentinelUsername)
		settings["sentinel_password"] = text(&o.SentinelPassword)
	case socket:
		settings["db"] = t.setDB
	}
	seen := make(map[string]bool)
	for pair, before := range pairs(query) {
		name, value, bad := unescape(pair)
		set, known := settings[name]
		switch tell := known || canTell(query, before, pair); {
		case bad && tell:
			return fmt.Errorf("the URL's query: %s is not percent-encoded", name)
		case bad:
			return errors.New("the URL's query is not name=value, percent-encoded and joined by \"&\"")
		case !known && tell:
			return t.unknown(name)
		case !known:
			return errors.New("the URL's query has a name that is unknown or does not fit the scheme; " +
				"the documentation of this package lists them (a \"?\" or \"&\" in a password is percent-encoded)")
		case seen[name]:
			return fmt.Errorf("the URL's query has %s more than once", name)
		}
		seen[name] = true
		if err := set(value); err != nil {
			return fmt.Errorf("the URL's query: %s: %w", name, err)
		}
	}
	if o.MaxRetries == 0 {
		o.MaxRetries = -1 // as go-redis writes "none"
	}
	return nil
}

// pairs are those of a query that are not empty, each with what stands before it.
func pairs(query string) iter.Seq2[string, string] {
	return func(yield func(pair, before string) bool) {
		at := 0
		for pair := range strings.SplitSeq(query, "&") {
			if pair != "" && !yield(pair, query[:at]) {
				return
			}
			at += len(pair) + 1
		}
	}
}

// unescape returns the name and the value of a pair, and whether one of them is not
// percent-encoded. A semicolon might be meant to end the pair.
func unescape(pair string) (name, value string, bad bool) {
	name, value, _ = strings.Cut(pair, "=")
	n, err1 := url.QueryUnescape(name)
	v, err2 := url.QueryUnescape(value)
	if err1 != nil || err2 != nil || strings.Contains(pair, ";") {
		return name, "", true
	}
	return n, v, false
}

// maxTold is the longest name in a query that an error has.
const maxTold = 32

// canTell reports whether an error may have the name of a pair that nobody knows. If the
// "?" is one of a password, an "@" comes after it, and if the "&" is, the password does
// before it.
func canTell(query, before, pair string) bool {
	name, _, hasValue := strings.Cut(pair, "=")
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}
	return hasValue && name != "" && len(name) <= maxTold && !strings.ContainsFunc(name, odd) &&
		!strings.Contains(query, "@") && !strings.Contains(strings.ToLower(before), "pass")
}

// unknown says what is wrong with a name in the query.
func (t *target) unknown(name string) error {
	switch {
	case name == "db" && t.kind == cluster:
		return errors.New(`the URL's query has "db", but a Cluster has only database 0`)
	case name == "db" && t.kind == sentinel:
		return errors.New(`the URL's query has "db"; the database goes into the path, as in redis+sentinel://host/mymaster/3`)
	case name == "db":
		return errors.New(`the URL's query has "db"; the database goes into the path, as in redis://host/3`)
	}
	return fmt.Errorf("the URL's query has %q, which is unknown or does not fit the scheme; "+
		"the documentation of this package lists what there is", name)
}

func text(p *string) func(string) error {
	return func(s string) error { *p = s; return nil }
}

func duration(p *time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New(`it is not a positive duration such as "500ms"`)
		}
		*p = d
		return nil
	}
}

func number(p *int, least, most int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return fmt.Errorf("it is not a whole number from %d to %d", least, most)
		}
		*p = n
		return nil
	}
}
