package redisconn_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/adapters/redisconn"
)

// fakeRedis answers INFO with a version, HELLO with an error as Redis before 6
// does, and everything else with OK. It returns its address.
func fakeRedis(t *testing.T, version string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	answer := func(conn net.Conn) {
		defer conn.Close()
		in := bufio.NewScanner(conn)
		for in.Scan() { // the number of arguments
			var words []string
			var n int
			if _, err := fmt.Sscanf(in.Text(), "*%d", &n); err != nil {
				return
			}
			for range n {
				in.Scan() // the length, which does not matter: no argument has a line break
				in.Scan()
				words = append(words, in.Text())
			}
			switch strings.ToLower(words[0]) {
			case "hello":
				fmt.Fprint(conn, "-ERR unknown command 'HELLO'\r\n")
			case "info":
				info := "# Server\r\nredis_version:" + version + "\r\nredis_mode:standalone\r\n"
				fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(info), info)
			case "ping":
				fmt.Fprint(conn, "+PONG\r\n")
			default:
				fmt.Fprint(conn, "+OK\r\n")
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return l.Addr().String()
}

func TestCheckLooksAtTheVersion(t *testing.T) {
	tests := []struct {
		version string
		ok      bool
	}{
		{"6.2.0", true},
		{"6.10.1", true},
		{"7.0.15", true},
		{"10.0", true},
		{"6.0.16", false},
		{"5.9.9", false},
		{"2.8.24", false},
		{"", false},
		{"unknown", false},
	}
	for _, tt := range tests {
		t.Run(tt.version, func(t *testing.T) {
			err := redisconn.Check(t.Context(), open(t, "redis://"+fakeRedis(t, tt.version)))
			if tt.ok {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, fmt.Sprintf("%q, but herdless needs 6.2", tt.version))
			}
		})
	}
}

func TestCheckNeedsAClient(t *testing.T) {
	for _, none := range []redis.UniversalClient{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		assert.ErrorContains(t, redisconn.Check(t.Context(), none), "needs a client")
	}
}
