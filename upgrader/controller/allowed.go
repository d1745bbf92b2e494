package controller

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// DefaultAllowed lets a plan name Services of its own namespace: whoever may write plans
// there is trusted with what they lead to, and with nothing else of the network.
var DefaultAllowed = []string{"*.{namespace}.svc", "*.{namespace}.svc.cluster.local"}

// Allowed says which arbiters plans may name, besides those of the upgrader's own
// configuration. The zero value allows none.
type Allowed struct{ rules []allowRule }

// allowRule is one entry: a name, a name's ending, an address or a network, and a port.
type allowRule struct {
	// name in lower case; "*" is any; one that begins with "*." is an ending.
	name string
	// net is set in place of name.
	net netip.Prefix
	// port; "": any.
	port string
}

// ParseAllowed reads entries of --allowed-arbiters: "*", "host", "*.suffix", an IP address
// or a network such as 10.0.0.0/8, each but the network with or without ":port".
// {namespace} stands for the plan's namespace.
func ParseAllowed(entries []string) (Allowed, error) {
	var a Allowed
	for _, e := range entries {
		r, err := parseRule(strings.TrimSpace(e))
		if err != nil {
			return Allowed{}, fmt.Errorf("--allowed-arbiters %q: %w", e, err)
		}
		a.rules = append(a.rules, r)
	}
	return a, nil
}

func parseRule(e string) (allowRule, error) {
	if p, err := netip.ParsePrefix(e); err == nil {
		return allowRule{net: p.Masked()}, nil
	}
	host, port := e, ""
	if h, p, err := net.SplitHostPort(e); err == nil {
		host, port = h, p
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		ip = ip.Unmap()
		return allowRule{net: netip.PrefixFrom(ip, ip.BitLen()), port: port}, nil
	}
	rest := strings.TrimPrefix(host, "*.")
	if host == "" || host != "*" && strings.ContainsAny(rest, "*:/ ") || strings.Trim(port, "0123456789") != "" {
		return allowRule{}, errors.New(`give "*", host, *.suffix, an IP address or a network, with or without :port`)
	}
	return allowRule{name: canonical(host), port: port}, nil
}

// canonical is how names are compared.
func canonical(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// Address says why a plan of a namespace may not name an arbiter; nil: it may. What a name
// leads to is judged by Permit, when it is known.
func (a Allowed) Address(namespace, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if err := a.special(netip.AddrPortFrom(ip, 0), port); err != nil {
			return err
		}
		if a.network(ip, port) {
			return nil
		}
	}
	for _, r := range a.rules {
		if r.named(namespace, canonical(host)) && (r.port == "" || r.port == port) {
			return nil
		}
	}
	return errors.New("the upgrader's --allowed-arbiters do not have it: ask who runs the upgrader, or name one that they have")
}

func (r allowRule) named(namespace, host string) bool {
	name := strings.ReplaceAll(r.name, "{namespace}", namespace)
	suffix, ending := strings.CutPrefix(name, "*")
	return name != "" && (name == host || ending && strings.HasSuffix(host, suffix) && len(host) > len(suffix))
}

func (a Allowed) network(ip netip.Addr, port string) bool {
	for _, r := range a.rules {
		if r.net.IsValid() && r.net.Contains(ip.Unmap().WithZone("")) && (r.port == "" || r.port == port) {
			return true
		}
	}
	return false
}

// Permit says why no connection may be opened to where a name has led; nil: one may.
func (a Allowed) Permit(to netip.AddrPort) error {
	return a.special(to, fmt.Sprint(to.Port()))
}

// special refuses addresses behind which a cluster has what no plan should reach: this
// pod's own ports, those of its node, and the cloud's metadata. Only an entry that is an
// address or a network lets them pass; a name or "*" does not.
func (a Allowed) special(to netip.AddrPort, port string) error {
	ip := to.Addr().Unmap()
	if what := specialIP(ip); what != "" && !a.network(ip, port) {
		return fmt.Errorf("%s is %s, which no plan may name: if it is meant, the upgrader's --allowed-arbiters must have the address itself", ip, what)
	}
	return nil
}

// metadataIPs are where clouds serve credentials outside the link-local range: AWS and
// Google (IPv6), Azure, Alibaba.
var metadataIPs = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("100.100.100.200"),
}

// nat64 is the prefix under which an IPv4 address is reached in IPv6 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func specialIP(ip netip.Addr) string {
	ip = ip.WithZone("") // an address with a zone equals none without, and is in no prefix
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case slices.Contains(metadataIPs, ip):
		return "a cloud's metadata address"
	case ip.IsLoopback():
		return "a loopback address"
	case ip.IsUnspecified():
		return "the unspecified address"
	case ip.IsLinkLocalUnicast():
		return "a link-local address"
	case ip.IsMulticast():
		return "a multicast address"
	}
	return ""
}
