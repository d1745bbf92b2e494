package controller

import (
	"net/netip"
	"strings"
	"testing"
)

// FuzzParseAllowed: an entry of --allowed-arbiters is refused or understood, and "*" alone
// allows every address.
func FuzzParseAllowed(f *testing.F) {
	for _, e := range []string{"*", "host", "*.svc:9443", "10.0.0.0/8", "[::1]:9443", "{namespace}.example", "a:b:c", "::ffff:1.2.3.4", "fe80::1%eth0"} {
		f.Add(e, "ns", "arbiter.ns.svc:9443")
		f.Add(e, "ns", "169.254.169.254:80")
	}
	f.Fuzz(func(t *testing.T, entry, namespace, address string) {
		a, err := ParseAllowed([]string{entry})
		if err != nil {
			return
		}
		if a.Address(namespace, address) == nil && !strings.Contains(address, ":") {
			t.Errorf("%q allows %q, which has no port", entry, address)
		}
		if to, err := netip.ParseAddrPort(address); err == nil && a.Permit(to) == nil && specialIP(to.Addr()) != "" && !strings.ContainsAny(entry, "0123456789:") {
			t.Errorf("%q, which names no network, permits %s", entry, to)
		}
	})
}
