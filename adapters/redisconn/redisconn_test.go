package redisconn_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/internal/redistest"
)

func open(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	client, err := redisconn.Open(url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	return client
}

func TestOpenRealDeployments(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "redis.sock")
	urls := map[string]func() string{
		"standalone": func() string { return redistest.Standalone(t).URL() },
		"sentinel":   func() string { return redistest.SharedSentinels(t).URL() },
		"cluster":    func() string { return redistest.SharedCluster(t).URL() },
		"unix": func() string {
			redistest.NewStandalone(t, "--unixsocket", sock)
			return "unix://" + sock + "?db=1"
		},
		"password": func() string {
			server := redistest.NewStandalone(t)
			admin := server.Client(t)
			require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "shop", "on", ">p@ss/w?rd", "~*", "+@all").Err())
			return "redis://shop:p%40ss%2Fw%3Frd@" + server.Addr() + "/1"
		},
		"may not call INFO": func() string {
			server := redistest.NewStandalone(t)
			admin := server.Client(t)
			require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all", "-info").Err())
			return "redis://shop:secret@" + server.Addr()
		},
	}
	for name, url := range urls {
		t.Run(name, func(t *testing.T) {
			client := open(t, url())
			require.NoError(t, redisconn.Check(t.Context(), client))
			key := redistest.Prefix(t)
			require.NoError(t, client.Set(t.Context(), key, "value", time.Minute).Err())
			got, err := client.Get(t.Context(), key).Result()
			require.NoError(t, err)
			assert.Equal(t, "value", got)
		})
	}
}

func TestOptionsOfAURL(t *testing.T) {
	o := open(t, "redis://user:pa%25ss@example.com/3?client_name=shop&dial_timeout=5s&read_timeout=2s&write_timeout=3s&"+
		"pool_timeout=4s&pool_size=7&max_retries=0&protocol=3").(*redis.Client).Options()
	assert.Equal(t, "example.com:6379", o.Addr)
	assert.Equal(t, "user", o.Username)
	assert.Equal(t, "pa%ss", o.Password)
	assert.Equal(t, 3, o.DB)
	assert.Equal(t, "shop", o.ClientName)
	assert.Equal(t, 5*time.Second, o.DialTimeout)
	assert.Equal(t, 2*time.Second, o.ReadTimeout)
	assert.Equal(t, 3*time.Second, o.WriteTimeout)
	assert.Equal(t, 4*time.Second, o.PoolTimeout)
	assert.Equal(t, 7, o.PoolSize)
	assert.Equal(t, 0, o.MaxRetries)
	assert.Equal(t, 3, o.Protocol)
	assert.Nil(t, o.TLSConfig)
}

func TestDefaults(t *testing.T) {
	for _, url := range []string{"redis://h", "unix:///redis.sock", "redis+sentinel://h/m"} {
		o := open(t, url).(*redis.Client).Options()
		assert.True(t, o.ContextTimeoutEnabled, url)
		assert.Equal(t, 2*time.Second, o.DialTimeout, url)
		assert.Equal(t, time.Second, o.ReadTimeout, url)
		assert.Equal(t, time.Second, o.WriteTimeout, url)
		assert.Equal(t, time.Second, o.PoolTimeout, url)
		assert.Equal(t, 1, o.MaxRetries, url)
		assert.Zero(t, o.MinIdleConns, url)
		assert.Equal(t, 2, o.Protocol, url)
	}
	o := open(t, "redis+cluster://h").(*redis.ClusterClient).Options()
	assert.True(t, o.ContextTimeoutEnabled)
	assert.Equal(t, 2, o.Protocol)
	assert.Equal(t, time.Second, o.ReadTimeout)
}

func TestAddresses(t *testing.T) {
	tests := []struct{ url, want string }{
		{"redis://h", "h:6379"},
		{"redis://h/", "h:6379"},
		{"redis://h:1234", "h:1234"},
		{"redis://[::1]", "[::1]:6379"},
		{"redis://[::1]:1234/0", "[::1]:1234"},
		{"redis://:secret@h", "h:6379"},
		{"redis://@h", "h:6379"},
		{"unix:///var/run/redis.sock", "/var/run/redis.sock"},
		{"unix://:secret@/var/run/redis.sock", "/var/run/redis.sock"},
		{"redis+cluster://a,b:7001,[::1],[::1]:7002", "a:6379 b:7001 [::1]:6379 [::1]:7002"},
		{"redis+cluster://:secret@a,b/0", "a:6379 b:6379"},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			switch c := open(t, tt.url).(type) {
			case *redis.Client:
				assert.Equal(t, tt.want, c.Options().Addr)
			case *redis.ClusterClient:
				assert.Equal(t, tt.want, strings.Join(c.Options().Addrs, " "))
			}
		})
	}
}

var badURLs = []struct{ name, url, want string }{
	{"empty", "", "no scheme"},
	{"no scheme", "localhost:6379", "no scheme"},
	{"no slashes", "redis:localhost", "no scheme"},
	{"another scheme", "http://h", "scheme is unknown"},
	{"upper case", "REDIS://h", "scheme is unknown"},
	{"an unknown kind", "redis+ring://h", "scheme is unknown"},
	{"no host", "redis://", "host 1 of the URL: it is empty"},
	{"no host but a port", "redis://:6379", "host 1 of the URL: it is empty"},
	{"an empty port", "redis://h:", "its port is empty"},
	{"port 0", "redis://h:0", "from 1 to 65535"},
	{"a big port", "redis://h:65536", "from 1 to 65535"},
	{"a name as port", "redis://h:secret", "not a host"},
	{"IPv6 without brackets", "redis://::1", "not a host"},
	{"IPv6 without a bracket", "redis://[::1", "not a host"},
	{"white space", "redis://h h", "not a host"},
	{"several hosts", "redis://a,b", "several hosts"},
	{"an empty host of several", "redis+cluster://a,,b", "host 2 of the URL: it is empty"},
	{"a database that is none", "redis://h/shop", "database is not a number"},
	{"a negative database", "redis://h/-1", "database is not a number"},
	{"a deep path", "redis://h/0/1", "database is not a number"},
	{"a database of a cluster", "redis+cluster://h/1", "only database 0"},
	{"no primary", "redis+sentinel://h", "must name the primary"},
	{"an empty primary", "redis+sentinel://h//1", "must name the primary"},
	{"a database of Sentinel that is none", "redis+sentinel://h/m/x", "database is not a number"},
	{"a socket at a host", "unix://h/redis.sock", "a host is given"},
	{"no socket", "unix://", "no path of a socket"},
	{"a user without a password", "redis://secret@h", "a user but no password"},
	{"a bad escape in the password", "redis://:secret%zz@h", "percent-encoded"},
	{`an unescaped "/" in the password`, "redis://:sec/ret@h", "not a host"},
	{`an unescaped "@" in the password`, "redis://:sec@ret@h", "more than one"},
	{`an unescaped "?" in the password`, "redis://:sec?ret@h", "not a host"},
	{`an unescaped "#" in the password`, "redis://:sec#ret@h", "fragment"},
	{"an unknown setting", "redis://h?pool_size=5&ssl_verify=secret", `has "ssl_verify", which is unknown`},
	{"an unknown setting that has no value", "redis://h?secret", "a name that is unknown"},
	{"an unknown setting of odd characters", "redis://h?a.secret.b=1", "a name that is unknown"},
	{"an unknown setting behind a password", "redis+sentinel://h/m?sentinel_password=sec&secret=1", "a name that is unknown"},
	{"an unknown setting of a long name", "redis://h?" + strings.Repeat("secret", 6) + "=1", "a name that is unknown"},
	{"a setting of another scheme", "redis://h?sentinel_password=secret", `has "sentinel_password", which is unknown or does not fit the scheme`},
	{`an unescaped "?" in a password that begins like a port`, "redis://shop:123?secret@h", "a name that is unknown"},
	{`an unescaped "?" and "=" there`, "redis://shop:123?secret=x@h", "a name that is unknown"},
	{"a database in the query", "redis://h?db=secret", `has "db"; the database goes into the path, as in redis://host/3`},
	{"a database of Sentinel in the query", "redis+sentinel://h/m?db=3", "as in redis+sentinel://host/mymaster/3"},
	{"a database of a cluster in the query", "redis+cluster://h?db=3", `has "db", but a Cluster has only database 0`},
	{"a database of a socket that is none", "unix:///s?db=secret", "db: the database is not a number"},
	{"a setting twice", "redis://h?pool_size=1&pool_size=2", "pool_size more than once"},
	{"a duration without a unit", "redis://h?read_timeout=5", "read_timeout: it is not a positive duration"},
	{"no time at all", "redis://h?read_timeout=0s", "read_timeout: it is not a positive duration"},
	{"an empty pool", "redis://h?pool_size=0", "pool_size: it is not a whole number from 1"},
	{"a pool of gigabytes", "redis://h?pool_size=100000000", "pool_size: it is not a whole number from 1 to 10000"},
	{"a word for a number", "redis://h?max_retries=secret", "max_retries: it is not a whole number from 0"},
	{"an old protocol", "redis://h?protocol=1", "protocol"},
	{"a new protocol", "redis://h?protocol=4", "protocol"},
	{"a bad query", "redis://h?a=%zz", `query: a is not percent-encoded`},
	{"a bad name in the query", "redis://h?secret%zz=1", "query is not name=value"},
	{"a semicolon in the query", "redis://h?read_timeout=5s;secret=1", "query: read_timeout is not percent-encoded"},
}

func TestBadURLs(t *testing.T) {
	for _, tt := range badURLs {
		t.Run(tt.name, func(t *testing.T) {
			client, err := redisconn.Open(tt.url)
			require.Error(t, err)
			assert.Nil(t, client)
			assert.ErrorContains(t, err, "redisconn: ")
			assert.ErrorContains(t, err, tt.want)
			for _, piece := range []string{"secret", "sec/", "ret@"} {
				assert.NotContains(t, err.Error(), piece)
			}
		})
	}
}

// namedSecret is a secret as the name of a setting, which is told of.
var namedSecret = regexp.MustCompile(`^[^?]*\?([^@&]*&)*[A-Za-z0-9_-]*hUnTeR2[A-Za-z0-9_-]*=[^@]*$`)

// FuzzOpen puts a secret anywhere into anything: Open does not panic, and no
// error holds it, unless it stands where only the name of a setting can.
func FuzzOpen(f *testing.F) {
	const secret = "hUnTeR2"
	for _, tt := range badURLs {
		before, after, _ := strings.Cut(tt.url, "secret")
		f.Add(before, after)
	}
	f.Add("redis://user:", "@h/0")
	f.Add("redis+sentinel://:", "@h,i/m/1?sentinel_password=x")
	f.Add("redis+cluster://u:%", "@[::1]:80,b")
	f.Fuzz(func(t *testing.T, before, after string) {
		client, err := redisconn.Open(before + secret + after)
		if err != nil {
			if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret)) && !namedSecret.MatchString(before+secret+after) {
				t.Errorf("the error holds the secret: %v", err)
			}
			return
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenDoesNotConnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	running := goleak.IgnoreCurrent()
	for _, url := range []string{
		"redis://" + l.Addr().String(),
		"redis+sentinel://" + l.Addr().String() + "/m",
		"redis+cluster://" + l.Addr().String(),
	} {
		client, err := redisconn.Open(url)
		require.NoError(t, err)
		require.NoError(t, client.Close())
	}
	goleak.VerifyNone(t, running)
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = l.Accept()
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	assert.True(t, netErr.Timeout(), "nobody must have connected")
}

// A handshake begins, for the host of the URL, and fails as there is nobody to
// continue it.
func TestTLS(t *testing.T) {
	for scheme, path := range map[string]string{"rediss": "", "rediss+sentinel": "/m", "rediss+cluster": ""} {
		t.Run(scheme, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			hello := make(chan *tls.ClientHelloInfo, 100)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_ = tls.Server(conn, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
						select {
						case hello <- h:
						default:
						}
						return nil, errors.New("that was all")
					}}).Handshake()
					conn.Close()
				}
			}()
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			client := open(t, scheme+"://localhost:"+port+path)
			assert.Error(t, redisconn.Check(t.Context(), client))
			h := <-hello
			assert.Equal(t, "localhost", h.ServerName)
			assert.NotContains(t, h.SupportedVersions, uint16(tls.VersionTLS11))
		})
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	server := redistest.NewStandalone(t)
	admin := server.Client(t)
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "default", "resetpass", ">secret").Err())

	err := redisconn.Check(t.Context(), open(t, "redis://"+server.Addr()))
	assert.ErrorContains(t, err, "wants a password")
	err = redisconn.Check(t.Context(), open(t, "redis://:wr0ng@"+server.Addr()))
	assert.ErrorContains(t, err, "does not accept the user and password")
	assert.NotContains(t, err.Error(), "wr0ng")
	assert.NoError(t, redisconn.Check(t.Context(), open(t, "redis://:secret@"+server.Addr())))
}

// A Redis that hangs or is gone fails a check in time, by the context or, if it
// has no deadline, by the timeouts of Open.
func TestCheckOfARedisThatDoesNotAnswer(t *testing.T) {
	server := redistest.NewStandalone(t)
	client := open(t, server.URL())
	server.Stop(t)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := redisconn.Check(ctx, client)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "does not answer")
	assert.Less(t, time.Since(begin), time.Second)

	begin = time.Now()
	assert.Error(t, redisconn.Check(context.WithoutCancel(ctx), client))
	assert.Less(t, time.Since(begin), 10*time.Second)
	t.Logf("a hanging Redis, no deadline: %v", time.Since(begin))

	server.Kill(t)
	begin = time.Now()
	assert.Error(t, redisconn.Check(context.WithoutCancel(ctx), client))
	assert.Less(t, time.Since(begin), 10*time.Second)
	t.Logf("no Redis, no deadline: %v", time.Since(begin))
}
