package clientip_test

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/clientip"
)

func TestForwarded(t *testing.T) {
	tests := []struct {
		name  string
		peer  string
		lines []string
		want  string
	}{
		{"no proxy, spoofed", "203.0.113.9:1234", []string{"for=198.51.100.1"}, "203.0.113.9"},
		{"one proxy", "10.0.0.1:1", []string{"for=203.0.113.9"}, "203.0.113.9"},
		{"with everything", "10.0.0.1:1", []string{`by=10.0.0.1;For="203.0.113.9:4711";host="a;b,c";proto=https`}, "203.0.113.9"},
		{"IPv6", "10.0.0.1:1", []string{`for="[2001:db8::9]"`}, "2001:db8::9"},
		{"IPv6 with a port", "10.0.0.1:1", []string{`for="[2001:db8::9]:4711"`}, "2001:db8::9"},
		{"two proxies", "10.0.0.1:1", []string{"for=203.0.113.9, for=192.0.2.7"}, "203.0.113.9"},
		{"two proxies, two lines", "10.0.0.1:1", []string{"for=198.51.100.1, for=203.0.113.9", "for=192.0.2.7"}, "203.0.113.9"},
		{"spoofed", "10.0.0.1:1", []string{"for=198.51.100.1, for=10.0.0.9, for=203.0.113.9"}, "203.0.113.9"},
		{"spoofed with a quote that is open", "10.0.0.1:1", []string{`for="198.51.100.1, for=203.0.113.9`}, "203.0.113.9"},
		{"the same, and the proxy quotes", "10.0.0.1:1", []string{`for="198.51.100.1`, `for=203.0.113.9;by="[fd00:1::5]"`}, "203.0.113.9"},
		{"spoofed with an escape", "10.0.0.1:1", []string{`for="\`, `for=203.0.113.9`}, "203.0.113.9"},
		{"spoofed in a host", "10.0.0.1:1", []string{`for=203.0.113.9;host="a\",for=198.51.100.1;x=\""`}, "203.0.113.9"},
		{"in a host that ends with a backslash", "10.0.0.1:1", []string{`host="a\\\",for=198.51.100.1;x=\"\\";for=203.0.113.9`}, "203.0.113.9"},

		{"the other field", "10.0.0.1:1", nil, "10.0.0.1"},
		{"unknown", "10.0.0.1:1", []string{"for=198.51.100.1, for=unknown"}, "10.0.0.1"},
		{"obfuscated", "10.0.0.1:1", []string{"for=198.51.100.1, for=_hidden, for=192.0.2.7"}, "192.0.2.7"},
		{"no for", "10.0.0.1:1", []string{"for=198.51.100.1, proto=http"}, "10.0.0.1"},
		{"two of them", "10.0.0.1:1", []string{"for=198.51.100.1;for=203.0.113.9"}, "10.0.0.1"},
		{"IPv6 without brackets", "10.0.0.1:1", []string{`for="2001:db8::9"`}, "10.0.0.1"},
		{"half a quote", "10.0.0.1:1", []string{`for=203.0.113.9"`}, "10.0.0.1"},
		{"an empty element", "10.0.0.1:1", []string{"for=198.51.100.1, "}, "10.0.0.1"},
	}
	r, err := clientip.New(ours, &clientip.Options{Forwarded: true})
	require.NoError(t, err)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request(tt.peer, "198.51.100.77") // what the client says in the field that nobody appends to
			req.Header["Forwarded"] = tt.lines
			got, err := r.Addr(req)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.String())
		})
	}
}

func TestCDN(t *testing.T) {
	r, err := clientip.New(ours, &clientip.Options{CDNs: []clientip.CDN{
		{Networks: prefixes("198.18.0.0/24", "2001:db8:cd::/48"), Field: "cf-connecting-ip"},
		{Networks: prefixes("198.18.1.0/24"), Field: "True-Client-IP"},
	}})
	require.NoError(t, err)
	tests := []struct {
		name         string
		peer         string
		forwardedFor string
		field        string
		lines        []string
		want         string
	}{
		{"the peer is the network", "198.18.0.5:1", "", "Cf-Connecting-Ip", []string{"203.0.113.9"}, "203.0.113.9"},
		{"over IPv6", "[2001:db8:cd::1]:1", "", "Cf-Connecting-Ip", []string{" 2001:db8::9 "}, "2001:db8::9"},
		{"the peer is a balancer behind it", "10.0.0.1:1", "203.0.113.9, 198.18.0.5", "Cf-Connecting-Ip", []string{"203.0.113.9"}, "203.0.113.9"},
		{"around the network", "203.0.113.9:1", "", "Cf-Connecting-Ip", []string{"198.51.100.1"}, "203.0.113.9"},
		{"around the network, to the balancer", "10.0.0.1:1", "203.0.113.9", "Cf-Connecting-Ip", []string{"198.51.100.1"}, "203.0.113.9"},
		{"a forged way through the network", "10.0.0.1:1", "198.18.0.5, 203.0.113.9", "Cf-Connecting-Ip", []string{"198.51.100.1"}, "203.0.113.9"},
		{"the field of another network", "198.18.1.5:1", "", "Cf-Connecting-Ip", []string{"198.51.100.1"}, "198.18.1.5"},
		{"its own field", "198.18.1.5:1", "", "True-Client-Ip", []string{"203.0.113.9"}, "203.0.113.9"},
		{"no field", "198.18.0.5:1", "", "", nil, "198.18.0.5"},
		{"two lines", "198.18.0.5:1", "", "Cf-Connecting-Ip", []string{"198.51.100.1", "203.0.113.9"}, "198.18.0.5"},
		{"a list", "198.18.0.5:1", "", "Cf-Connecting-Ip", []string{"198.51.100.1, 203.0.113.9"}, "198.18.0.5"},
		{"garbage", "198.18.0.5:1", "", "Cf-Connecting-Ip", []string{"<script>"}, "198.18.0.5"},
		{"10 kB", "198.18.0.5:1", "", "Cf-Connecting-Ip", []string{strings.Repeat("9", 10_000)}, "198.18.0.5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request(tt.peer)
			if tt.forwardedFor != "" {
				req.Header.Set("X-Forwarded-For", tt.forwardedFor)
			}
			if tt.field != "" {
				req.Header[tt.field] = tt.lines
			}
			got, err := r.Addr(req)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.String())
		})
	}
}

func TestNewReportsFaultsOfCDNs(t *testing.T) {
	_, err := clientip.New(nil, &clientip.Options{CDNs: []clientip.CDN{{}, {Networks: prefixes("0.0.0.0/0"), Field: "F"}}})
	assert.ErrorContains(t, err, "Options.CDNs[0] needs networks and a field")
	assert.ErrorContains(t, err, "network of Options.CDNs[1] 0: 0.0.0.0/0 is everybody")
}

// FuzzForwarded plays a client that sends any two lines of Forwarded, as FuzzAddr does.
func FuzzForwarded(f *testing.F) {
	for _, line := range []string{"", "for=198.51.100.1", `for="`, `"`, `\"`, `for="[::1]:80"`, "for=10.0.0.1", ";", ",", "for=a;for=b", "="} {
		f.Add(line, line)
	}
	clients, err := clientip.New(ours, &clientip.Options{Forwarded: true})
	if err != nil {
		f.Fatal(err)
	}
	want := netip.MustParseAddr("203.0.113.9")
	f.Fuzz(func(t *testing.T, a, b string) {
		r := httptest.NewRequest("GET", "/", nil)
		for _, ours := range []string{
			"for=203.0.113.9", `proto=https;for="203.0.113.9:1";by="[fd00:1::5]"`, `for=203.0.113.9;host="a\",for=198.51.100.1;x=\"\\"`,
		} {
			for _, lines := range [][]string{{a, b + ", " + ours}, {a, b, ours}} {
				r.RemoteAddr = "10.0.0.1:1"
				r.Header["Forwarded"] = lines
				if got, err := clients.Addr(r); err != nil || got != want {
					t.Errorf("%q: Addr = %v, %v, want %v", lines, got, err, want)
				}
			}
		}
		r.Header["Forwarded"] = []string{a, b}
		if got, err := clients.Addr(r); err != nil || !got.IsValid() || got.Is4In6() || got.Zone() != "" {
			t.Errorf("Addr = %v, %v, want one without a zone, and not IPv4-mapped", got, err)
		}
	})
}
