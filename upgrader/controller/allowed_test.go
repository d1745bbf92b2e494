package controller

import (
	"net/netip"
	"strings"
	"testing"
)

func TestWhichArbitersAPlanMayName(t *testing.T) {
	const notListed = "--allowed-arbiters do not have it"
	tests := []struct {
		name    string
		allowed []string
		address string
		refused string // a part of the reason; "": it is allowed
	}{
		{"a Service of the plan's own namespace", DefaultAllowed, "arbiter.team-a.svc:9443", ""},
		{"the same with the cluster's domain", DefaultAllowed, "Arbiter.Team-A.svc.cluster.local:1", ""},
		{"a Service of another namespace", DefaultAllowed, "arbiter.team-b.svc:9443", notListed},
		{"a namespace that ends alike", DefaultAllowed, "arbiter.other-team-a.svc:9443", notListed},
		{"nothing but the ending", DefaultAllowed, ".team-a.svc:9443", notListed},
		{"an address of the network", DefaultAllowed, "10.1.2.3:9443", notListed},
		{"anything", []string{"*"}, "arbiter.example.com:1", ""},
		{"any address", []string{"*"}, "10.1.2.3:9443", ""},
		{"none at all", nil, "arbiter.team-a.svc:9443", notListed},
		{"a host on any port", []string{"arbiter.example.com"}, "arbiter.example.com:1", ""},
		{"a host with a dot at its end", []string{"arbiter.example.com"}, "arbiter.example.com.:1", ""},
		{"a host below it", []string{"arbiter.example.com"}, "a.arbiter.example.com:1", notListed},
		{"a host on its port", []string{"arbiter.example.com:9443"}, "arbiter.example.com:9443", ""},
		{"a host on another port", []string{"arbiter.example.com:9443"}, "arbiter.example.com:22", notListed},
		{"an ending on its port", []string{"*.example.com:9443"}, "a.b.example.com:9443", ""},
		{"an ending on another port", []string{"*.example.com:9443"}, "a.example.com:22", notListed},
		{"an address in a network", []string{"10.0.0.0/8"}, "10.1.2.3:9443", ""},
		{"an address outside it", []string{"10.0.0.0/8"}, "11.1.2.3:9443", notListed},
		{"loopback, whatever else is allowed", []string{"*"}, "127.0.0.1:9443", "a loopback address"},
		{"loopback in IPv6", []string{"*"}, "[::1]:9443", "a loopback address"},
		{"loopback in disguise", []string{"*"}, "[::ffff:127.0.0.1]:9443", "a loopback address"},
		{"metadata", []string{"*"}, "169.254.169.254:80", "a link-local address"},
		{"metadata of AWS in IPv6", []string{"*"}, "[fd00:ec2::254]:80", "metadata"},
		{"metadata behind NAT64", []string{"*"}, "[64:ff9b::a9fe:a9fe]:80", "a link-local address"},
		{"metadata of Google in IPv6", []string{"*"}, "[fd20:ce::254]:80", "metadata"},
		{"metadata with a zone", []string{"*"}, "[fd00:ec2::254%eth0]:80", "metadata"},
		{"metadata behind NAT64 with a zone", []string{"*"}, "[64:ff9b::a9fe:a9fe%eth0]:80", "a link-local address"},
		{"any own address", []string{"*"}, "0.0.0.0:9443", "the unspecified address"},
		{"loopback that is listed", []string{"127.0.0.1"}, "127.0.0.1:9443", ""},
		{"loopback that is listed with its port", []string{"127.0.0.1:9443"}, "127.0.0.1:9443", ""},
		{"loopback on a port that is not", []string{"*", "127.0.0.1:9443"}, "127.0.0.1:22", "a loopback address"},
		{"loopback in a listed network", []string{"::1/128"}, "[::1]:9443", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseAllowed(tt.allowed)
			if err != nil {
				t.Fatal(err)
			}
			err = a.Address("team-a", tt.address)
			if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("got %v, want a refusal with %q", err, tt.refused)
			}
		})
	}
}

func TestWhereANameMayLead(t *testing.T) {
	a, err := ParseAllowed([]string{"*", "localhost", "127.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	for to, may := range map[string]bool{
		"10.1.2.3:1": true, "127.0.0.1:1": false, "127.0.0.2:1": true, "169.254.169.254:80": false, "[fe80::1%eth0]:1": false, "[fd00:ec2::254%eth0]:80": false,
	} {
		if err := a.Permit(netip.MustParseAddrPort(to)); (err == nil) != may {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestEntriesThatCannotBeMeant(t *testing.T) {
	for _, e := range []string{"", "*.*", "a.*.b", "https://a", "a b", ":9443"} {
		if _, err := ParseAllowed([]string{e}); err == nil || !strings.Contains(err.Error(), "--allowed-arbiters") {
			t.Errorf("%q: %v", e, err)
		}
	}
}
