package clientip_test

import (
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/herdless/herdless/middleware/clientip"
)

// FuzzAddr plays a client that sends any two lines of X-Forwarded-For: directly,
// it is its peer's address; through a proxy of ours, which appends that, it is
// the same. Neither line has any influence.
func FuzzAddr(f *testing.F) {
	for _, line := range []string{
		"", "198.51.100.1", "198.51.100.1, 10.0.0.1", "10.0.0.1", "unknown", ", ,", "[::1]:80", "[10.0.0.1]",
		"::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.1:99999", "\x00\xff", "::ffff:10.0.0.1%1",
	} {
		f.Add(line, line)
	}
	clients, err := clientip.New(ours, nil)
	if err != nil {
		f.Fatal(err)
	}
	want := netip.MustParseAddr("203.0.113.9")
	f.Fuzz(func(t *testing.T, a, b string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "203.0.113.9:1234"
		r.Header["X-Forwarded-For"] = []string{a, b}
		if got, err := clients.Addr(r); err != nil || got != want {
			t.Errorf("directly: Addr = %v, %v, want %v", got, err, want)
		}

		r.RemoteAddr = "10.0.0.1:1"
		r.Header["X-Forwarded-For"] = []string{a, b + ", 203.0.113.9"}
		if got, err := clients.Addr(r); err != nil || got != want {
			t.Errorf("appended to the last line: Addr = %v, %v, want %v", got, err, want)
		}
		r.Header["X-Forwarded-For"] = []string{a, b, "203.0.113.9"}
		if got, err := clients.Addr(r); err != nil || got != want {
			t.Errorf("in a line of its own: Addr = %v, %v, want %v", got, err, want)
		}

		// Anything as the peer or as what the proxy says: no panic, and never an
		// address that has two forms.
		for _, peer := range []string{a, "10.0.0.1:1"} {
			r.RemoteAddr = peer
			r.Header["X-Forwarded-For"] = []string{b, a}
			got, err := clients.Addr(r)
			if err == nil && (!got.IsValid() || got.Is4In6() || got.Zone() != "") {
				t.Errorf("Addr = %v, want one without a zone, and not IPv4-mapped", got)
			}
			if key, err := clients.Key(r); err == nil && key == "" {
				t.Error("Key is empty")
			}
		}
	})
}
