package clientip_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/clientip"
)

func prefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// ours are the proxies of the tests: a load balancer, and an edge before it.
var ours = prefixes("10.0.0.0/24", "192.0.2.7/32", "fd00:1::/64")

func request(peer string, forwardedFor ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = peer
	for _, line := range forwardedFor {
		r.Header.Add("X-Forwarded-For", line)
	}
	return r
}

func TestAddr(t *testing.T) {
	tests := []struct {
		name  string
		peer  string
		lines []string
		want  string
	}{
		{"no proxy", "203.0.113.9:1234", nil, "203.0.113.9"},
		{"no proxy, spoofed", "203.0.113.9:1234", []string{"198.51.100.1"}, "203.0.113.9"},
		{"no proxy, spoofed with our own", "203.0.113.9:1234", []string{"10.0.0.1, 10.0.0.2"}, "203.0.113.9"},

		{"one proxy", "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"one proxy, spoofed", "10.0.0.1:1", []string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9"},
		{"one proxy, spoofed with a trusted address", "10.0.0.1:1", []string{"198.51.100.1, 10.0.0.9, 203.0.113.9"}, "203.0.113.9"},
		{"one proxy, spoofed in a line of its own", "10.0.0.1:1", []string{"198.51.100.1", "203.0.113.9"}, "203.0.113.9"},
		{"one proxy, spoofed garbage", "10.0.0.1:1", []string{"<script>, , 203.0.113.9"}, "203.0.113.9"},
		{"one proxy, the client sent an empty line", "10.0.0.1:1", []string{"", "203.0.113.9"}, "203.0.113.9"},

		{"two proxies", "10.0.0.1:1", []string{"203.0.113.9, 192.0.2.7"}, "203.0.113.9"},
		{"two proxies, spoofed", "10.0.0.1:1", []string{"198.51.100.1,203.0.113.9,192.0.2.7"}, "203.0.113.9"},
		{"two proxies, two lines", "10.0.0.1:1", []string{"198.51.100.1, 203.0.113.9", "192.0.2.7"}, "203.0.113.9"},
		{"IPv6 proxy and client", "[fd00:1::5]:443", []string{"2001:db8::9"}, "2001:db8::9"},

		{"nobody but ours", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a proxy that says nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"a proxy that says nothing, in a line", "10.0.0.1:1", []string{""}, "10.0.0.1"},

		// What comes before an entry that is no address was written by nobody knows whom.
		{"unknown", "10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"a Unix socket before our proxy", "10.0.0.1:1", []string{"198.51.100.1, unix:, 192.0.2.7"}, "192.0.2.7"},
		{"an empty entry", "10.0.0.1:1", []string{"198.51.100.1, , 192.0.2.7"}, "192.0.2.7"},
		{"an empty entry at the end", "10.0.0.1:1", []string{"198.51.100.1,"}, "10.0.0.1"},
		{"an empty line at the end", "10.0.0.1:1", []string{"198.51.100.1", ""}, "10.0.0.1"},
		{"a name", "10.0.0.1:1", []string{"localhost"}, "10.0.0.1"},
		{"quotes", "10.0.0.1:1", []string{`"203.0.113.9"`}, "10.0.0.1"},
		{"octal", "10.0.0.1:1", []string{"0203.0.113.9"}, "10.0.0.1"},
		{"a short form", "10.0.0.1:1", []string{"127.1"}, "10.0.0.1"},
		{"a number", "10.0.0.1:1", []string{"2130706433"}, "10.0.0.1"},
		{"a bad port", "10.0.0.1:1", []string{"203.0.113.9:99999"}, "10.0.0.1"},
		{"IPv4 in brackets", "10.0.0.1:1", []string{"[203.0.113.9]"}, "10.0.0.1"},
		{"a network", "10.0.0.1:1", []string{"203.0.113.0/24"}, "10.0.0.1"},
		{"semicolons", "10.0.0.1:1", []string{"203.0.113.9;203.0.113.8"}, "10.0.0.1"},
		{"other white space", "10.0.0.1:1", []string{"203.0.113.9\v"}, "10.0.0.1"},

		{"with a port", "10.0.0.1:1", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{"IPv6 in brackets", "10.0.0.1:1", []string{"[2001:db8::9]"}, "2001:db8::9"},
		{"IPv6 with a port", "10.0.0.1:1", []string{"[2001:db8::9]:4711"}, "2001:db8::9"},
		{"white space around", "10.0.0.1:1", []string{"\t 203.0.113.9 \t, 192.0.2.7 "}, "203.0.113.9"},
		{"a zone", "10.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"a zone at the peer", "[fe80::1%eth0]:80", nil, "fe80::1"},
		{"IPv4-mapped", "10.0.0.1:1", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		{"IPv4-mapped peer", "[::ffff:203.0.113.9]:80", nil, "203.0.113.9"},
		{"IPv4-mapped proxy", "[::ffff:10.0.0.1]:80", []string{"203.0.113.9, ::ffff:192.0.2.7"}, "203.0.113.9"},
		{"IPv4-mapped proxy with a zone", "[::ffff:10.0.0.1%eth0]:80", []string{"203.0.113.9"}, "203.0.113.9"},
		{"a peer without a port", "203.0.113.9", nil, "203.0.113.9"},
	}
	r, err := clientip.New(ours, nil)
	require.NoError(t, err)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := r.Addr(request(tt.peer, tt.lines...))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.String())
		})
	}
}

func TestAPeerWithoutAnAddress(t *testing.T) {
	r, err := clientip.New(ours, nil)
	require.NoError(t, err)
	for _, peer := range []string{"", "@", "/run/app.sock", "localhost:80", ":80"} {
		_, err := r.Addr(request(peer, "203.0.113.9"))
		assert.Error(t, err, peer)
		_, err = r.Key(request(peer, "203.0.113.9"))
		assert.Error(t, err, peer)
		_, err = clientip.Key(request(peer, "203.0.113.9"))
		assert.Error(t, err, peer)
	}
}

func TestKey(t *testing.T) {
	tests := []struct {
		name, peer string
		bits       int
		want       string
	}{
		{"IPv4 whole", "203.0.113.9:80", 0, "203.0.113.9"},
		{"IPv4-mapped as IPv4", "[::ffff:203.0.113.9]:80", 0, "203.0.113.9"},
		{"IPv6 by its /64", "[2001:db8:1:2:3:4:5:6]:80", 0, "2001:db8:1:2::/64"},
		{"IPv6 with a zone", "[fe80::3:4:5:6%eth0]:80", 0, "fe80::/64"},
		{"IPv6 by its /56", "[2001:db8:1:2ff:3:4:5:6]:80", 56, "2001:db8:1:200::/56"},
		{"IPv6 whole", "[2001:db8::1]:80", 128, "2001:db8::1/128"},
		{"IPv4 whatever the bits", "203.0.113.9:80", 8, "203.0.113.9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := clientip.New(nil, &clientip.Options{IPv6Bits: tt.bits})
			require.NoError(t, err)
			got, err := r.Key(request(tt.peer, "198.51.100.1"))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			if tt.bits == 0 {
				got, err := clientip.Key(request(tt.peer, "198.51.100.1"))
				require.NoError(t, err)
				assert.Equal(t, tt.want, got, "the function")
			}
		})
	}
}

// However an untrusted peer rotates, repeats and distorts its headers, it
// stays in one bucket; so does one behind our proxy, which appends its address.
func TestHostileHeadersFillOneBucket(t *testing.T) {
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf("198.51.100.%d", i), fmt.Sprintf("10.0.0.%d", i),
			strings.Repeat(fmt.Sprintf("10.0.0.%d, ", i), 1+i%30)+"203.0.113.1")
	}
	lines = append(lines,
		strings.Repeat("1", 10_000), strings.Repeat(",", 10_000), strings.Repeat("10.0.0.1,", 1_200),
		strings.Repeat("[", 10_000), "fe80::1%"+strings.Repeat("z", 10_000), strings.Repeat(" ", 10_000),
		"\x00", "\xff\xfe", "::ffff:10.0.0.1", "127.0.0.1", "::1")
	r, err := clientip.New(ours, nil)
	require.NoError(t, err)

	direct, proxied := map[string]bool{}, map[string]bool{}
	for _, line := range lines {
		for _, name := range []string{"X-Forwarded-For", "x-forwarded-for", "Forwarded", "X-Real-Ip", "True-Client-Ip", "Cf-Connecting-Ip"} {
			req := request("203.0.113.9:1234")
			req.Header.Add(name, line)
			req.Header.Add(name, line)
			key, err := r.Key(req)
			require.NoError(t, err)
			direct[key] = true

			req.RemoteAddr = "10.0.0.1:1"
			req.Header.Add("X-Forwarded-For", "203.0.113.9")
			key, err = r.Key(req)
			require.NoError(t, err)
			proxied[key] = true
		}
	}
	want := map[string]bool{"203.0.113.9": true}
	assert.Equal(t, want, direct)
	assert.Equal(t, want, proxied)
}

// A chain without an end, which only a declared proxy could send, is cut off.
func TestTheWalkIsBounded(t *testing.T) {
	r, err := clientip.New(ours, nil)
	require.NoError(t, err)
	addr, err := r.Addr(request("10.0.0.1:1", "203.0.113.9, "+strings.Repeat("10.0.0.2, ", 10_000)+"10.0.0.3"))
	require.NoError(t, err)
	assert.Equal(t, "10.0.0.2", addr.String())
}

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	r, err := clientip.New([]netip.Prefix{
		{},
		netip.MustParsePrefix("0.0.0.0/0"),
		netip.MustParsePrefix("::/0"),
		netip.MustParsePrefix("::ffff:0.0.0.0/96"),
		netip.MustParsePrefix("::ffff:0.0.0.0/80"),
		netip.MustParsePrefix("10.0.0.0/8"),
	}, &clientip.Options{IPv6Bits: 129})
	assert.Nil(t, r)
	for _, want := range []string{"network 0", "network 1", "network 2", "network 3", "network 4", "IPv6Bits is 129"} {
		assert.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), "network 5")
}

func TestNetworksInOtherForms(t *testing.T) {
	list := prefixes("::ffff:10.0.0.0/120", "192.0.2.99/24")
	r, err := clientip.New(list, nil)
	require.NoError(t, err)
	list[0] = netip.MustParsePrefix("203.0.113.0/24") // New keeps a copy
	addr, err := r.Addr(request("10.0.0.1:1", "198.51.100.1, 203.0.113.9, 192.0.2.7"))
	require.NoError(t, err)
	assert.Equal(t, "203.0.113.9", addr.String())
}

// Without a network, the Resolver is the function.
func TestNothingIsTrustedByDefault(t *testing.T) {
	for _, o := range []*clientip.Options{nil, {}} {
		r, err := clientip.New(nil, o)
		require.NoError(t, err)
		for _, peer := range []string{"127.0.0.1:1", "10.0.0.1:1", "[::1]:1", "192.168.1.1:1"} {
			req := request(peer, "203.0.113.9")
			want, err := clientip.Key(req)
			require.NoError(t, err)
			got, err := r.Key(req)
			require.NoError(t, err)
			assert.Equal(t, want, got)
			assert.NotEqual(t, "203.0.113.9", got)
		}
	}
}

func ExampleNew() {
	clients, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, nil)
	if err != nil {
		panic(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.1:44312"                              // our load balancer
	r.Header.Set("X-Forwarded-For", "198.51.100.1, 203.0.113.9") // the first is what the client sent
	fmt.Println(clients.Addr(r))
	// Output: 203.0.113.9 <nil>
}
