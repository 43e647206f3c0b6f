// Package clientip finds the address of the client behind the proxies that
// stand in front of a server.
//
// # Threat model
//
// The only address that a server knows for sure is that of its peer, the other
// end of the connection. Everything else stands in header fields, and whoever
// sends a request writes into them what he likes: X-Forwarded-For is a claim.
// A limit, a log or an allow list that believes it is one that every client
// switches off with one line, or points at somebody else.
//
// So nothing is believed unless its writer is known. The program declares the
// networks of its own proxies. If the peer is none of them, its address is the
// answer and no header field is looked at. If it is, then the last entry of
// X-Forwarded-For was appended by it, and says who its peer was; if that is a
// proxy too, the entry before was appended by that one; and so on, from the
// right to the left, over all lines of the field. The first address that is not
// a declared proxy is the client: what stands to the left of it came from the
// client and is never read. An entry that is no address ends the walk as well,
// because it cannot be known whose entries come before it: then the answer is
// the last proxy that is known.
//
// This holds if two things are so. Every declared proxy must append its peer's
// address to X-Forwarded-For (or replace the field by it): one that hands on the
// client's field untouched lets the client choose. And a declared network must
// hold nothing but proxies: everybody in it can pretend to be anybody. Declare
// single addresses and small networks; a cloud provider's whole range holds
// machines that anybody can rent.
//
// Some proxies write the field Forwarded instead (RFC 7239): Options.Forwarded says
// so. Only one of the two is read, because a proxy that appends to one of them hands
// on the other one as the client wrote it. An obfuscated or unknown node in it ends the
// walk like an entry that is no address.
//
// A content delivery network says in a field of its own who its client is.
// Options.CDNs says which one, and is believed from the network's own addresses only,
// be they the peer or what the walk comes to: whoever goes around the network and
// sends its field himself is not.
//
// Clients that share an address share an answer, as those behind one NAT do.
package clientip

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Options are the optional settings of a Resolver. Nil and the zero value are
// the defaults.
type Options struct {
	// IPv6Bits is how many leading bits of an IPv6 address make up its key. One
	// customer usually has at least a /64, in which he can change his address
	// at will; many have a /56 or a /48. From 1 to 128; zero means 64.
	IPv6Bits int
	// Forwarded says that the proxies write the field Forwarded (RFC 7239), and
	// X-Forwarded-For is not looked at.
	Forwarded bool
	// CDNs are the content delivery networks in front of the server.
	CDNs []CDN
}

// CDN is a content delivery network.
type CDN struct {
	// Networks are the addresses from which it asks the server, as it publishes
	// them.
	Networks []netip.Prefix
	// Field is the request field in which it names its client, such as
	// "CF-Connecting-IP". It must replace what the client sends of that name.
	Field string
}

const defaultIPv6Bits = 64

// Resolver finds the client's address of requests that come through known
// proxies. It is safe for concurrent use.
type Resolver struct {
	trusted   []netip.Prefix
	ipv6Bits  int
	forwarded bool
	cdns      []CDN
}

// New returns a Resolver that trusts the proxies in the given networks; see the
// package documentation for what that means. Without any, only the peer's
// address counts. It reports everything that is wrong with its arguments at
// once. o may be nil.
func New(trusted []netip.Prefix, o *Options) (*Resolver, error) {
	if o == nil {
		o = &Options{}
	}
	r := &Resolver{ipv6Bits: o.IPv6Bits, forwarded: o.Forwarded}
	var faults []error
	all := func(what string, networks []netip.Prefix) (list []netip.Prefix) {
		for i, p := range networks {
			p, err := canonical(p)
			if err != nil {
				faults = append(faults, fmt.Errorf("clientip: %s %d: %w", what, i, err))
				continue
			}
			list = append(list, p)
		}
		return list
	}
	r.trusted = all("trusted network", trusted)
	for i, c := range o.CDNs {
		networks := all(fmt.Sprintf("network of Options.CDNs[%d]", i), c.Networks)
		if len(c.Networks) == 0 || c.Field == "" {
			faults = append(faults, fmt.Errorf("clientip: Options.CDNs[%d] needs networks and a field", i))
		}
		r.cdns = append(r.cdns, CDN{networks, http.CanonicalHeaderKey(c.Field)})
	}
	if r.ipv6Bits < 0 || r.ipv6Bits > 128 {
		faults = append(faults, fmt.Errorf("clientip: Options.IPv6Bits is %d, but must be between 1 and 128, or zero for %d",
			r.ipv6Bits, defaultIPv6Bits))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if r.ipv6Bits == 0 {
		r.ipv6Bits = defaultIPv6Bits
	}
	return r, nil
}

// canonical returns p as the addresses are that it is compared with: IPv4-mapped
// IPv6 as IPv4.
func canonical(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("it is not a valid network")
	}
	if p.Bits() == 0 {
		return p, fmt.Errorf("%v is everybody, so every client could choose its address: "+
			"name the networks of your own proxies", p)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("%v is only partly IPv4-mapped: write it as IPv4", p)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		if p.Bits() == 0 {
			return p, fmt.Errorf("%v is everybody with IPv4, so every such client could choose its address: "+
				"name the networks of your own proxies", p)
		}
	}
	return p.Masked(), nil
}

// maxHops bounds how many entries of X-Forwarded-For are read. Only declared
// proxies can make the walk that long.
const maxHops = 32

// Addr returns the client's address, without a zone, and IPv4-mapped IPv6 as
// IPv4. It is an error if the peer has no address, as on a Unix socket: then
// nothing is known for sure.
func (r *Resolver) Addr(req *http.Request) (netip.Addr, error) {
	addr, err := peer(req)
	if err != nil {
		return netip.Addr{}, err
	}
	if r.trusts(addr) {
		addr = r.walk(req, addr)
	}
	for _, c := range r.cdns {
		if within(c.Networks, addr) {
			// Twice, or what is no address, is not as the network writes it.
			if lines := req.Header[c.Field]; len(lines) == 1 {
				if client, ok := parse(strings.Trim(lines[0], " \t")); ok {
					return client, nil
				}
			}
			break
		}
	}
	return addr, nil
}

// walk follows the entries that proxies have appended, from the right to the left,
// beginning at a proxy that is trusted.
func (r *Resolver) walk(req *http.Request, addr netip.Addr) netip.Addr {
	field, last := "X-Forwarded-For", lastAddress
	if r.forwarded {
		field, last = "Forwarded", lastNode
	}
	// Several lines of a field are one list (RFC 9110, section 5.3).
	rest := strings.Join(req.Header[field], ",")
	for range maxHops {
		before, left, more, ok := last(rest)
		if !ok {
			break
		}
		addr = before
		if !more || !r.trusts(addr) {
			break
		}
		rest = left
	}
	return addr
}

// lastAddress takes the last entry off a list of addresses.
func lastAddress(list string) (addr netip.Addr, rest string, more, ok bool) {
	comma := strings.LastIndexByte(list, ',')
	addr, ok = parse(strings.Trim(list[comma+1:], " \t"))
	return addr, list[:max(comma, 0)], comma >= 0, ok
}

// Key returns the client's address as a key for rate limits: IPv4 whole, IPv6
// by its first Options.IPv6Bits bits. It is a ratelimit.KeyFunc.
func (r *Resolver) Key(req *http.Request) (string, error) {
	addr, err := r.Addr(req)
	if err != nil {
		return "", err
	}
	return key(addr, r.ipv6Bits), nil
}

// Key returns the peer's address as a key for rate limits: IPv4 whole, IPv6 by
// its first 64 bits. It trusts no proxy, so behind one it is the same for all
// clients: use New there. It is a ratelimit.KeyFunc.
func Key(req *http.Request) (string, error) {
	addr, err := peer(req)
	if err != nil {
		return "", err
	}
	return key(addr, defaultIPv6Bits), nil
}

func key(addr netip.Addr, ipv6Bits int) string {
	if addr.Is4() {
		return addr.String()
	}
	return netip.PrefixFrom(addr, ipv6Bits).Masked().String()
}

func (r *Resolver) trusts(addr netip.Addr) bool { return within(r.trusted, addr) }

func within(networks []netip.Prefix, addr netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// peer returns the address of the other end of the connection.
func peer(req *http.Request) (netip.Addr, error) {
	addr, ok := parse(req.RemoteAddr)
	if !ok {
		return netip.Addr{}, fmt.Errorf("clientip: the peer's address %q is not an IP address", req.RemoteAddr)
	}
	return addr, nil
}

// maxEntry is longer than every address with a zone and a port in use.
const maxEntry = 100

// parse reads an address as proxies write it: "192.0.2.1", "2001:db8::1",
// "[2001:db8::1]", the first and the last also with a port.
func parse(s string) (netip.Addr, bool) {
	if len(s) > maxEntry {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	if err != nil && strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		addr, err = netip.ParseAddr(s[1 : len(s)-1])
		if err == nil && addr.Is4() {
			return netip.Addr{}, false
		}
	}
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(s)
		addr = withPort.Addr()
	}
	return addr.WithZone("").Unmap(), err == nil
}
