package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
)

// Arbiters is what the upgrader was configured with.
type Arbiters struct {
	// Own is the arbiter for plans that name none. Its certificate and token are the
	// upgrader's own; they are shown to Own.Address and Trusted, compared as text, and to
	// nobody else, wherever a name may lead.
	Own     arbiter.Config
	Trusted []string
	// Allowed says which others plans may name. Those see nothing but what the plan's own
	// Secret holds.
	Allowed Allowed
	// ForeignGroups lets a plan for which the upgrader shows who it is name groups of other
	// namespaces.
	ForeignGroups bool
}

// For says how to reach a plan's arbiter, apart from what is in the plan's Secret. An error
// says what to change in the plan, or whom to ask.
func (a Arbiters) For(up *v1alpha1.UpgradePlan) (arbiter.Config, error) {
	spec := up.Spec.Arbiter
	address := spec.Address
	if address == "" {
		address = a.Own.Address
	}
	if address == "" {
		return arbiter.Config{}, errors.New("the plan names no arbiter and the upgrader was started without one: set spec.arbiter.address")
	}
	ours := address == a.Own.Address || slices.Contains(a.Trusted, address)
	if spec.TLS != nil {
		cfg := arbiter.Config{Address: address}
		if ours {
			return cfg, nil
		}
		cfg.Permit = a.Allowed.Permit
		return cfg, a.allowed(up, address)
	}
	if !ours {
		if err := a.allowed(up, address); err != nil {
			return arbiter.Config{}, err
		}
		return arbiter.Config{}, fmt.Errorf("the arbiter at %s is not one of the upgrader's own, which alone are shown its certificate and token: set spec.arbiter.tls", address)
	}
	if namespace, _, named := strings.Cut(spec.Group, "/"); named && namespace != up.Namespace && !a.ForeignGroups {
		return arbiter.Config{}, fmt.Errorf("group %s is not of namespace %s: with the upgrader's own certificate or token a plan may name groups of its own namespace; "+
			"set spec.arbiter.tls to ask under another name", spec.Group, up.Namespace)
	}
	cfg := a.Own
	if address != a.Own.Address {
		cfg.Address = address
		if a.Own.TLS != nil { // the name in the certificate is that of the address
			tls := *a.Own.TLS
			tls.ServerName = ""
			cfg.TLS = &tls
		}
	}
	return cfg, nil
}

func (a Arbiters) allowed(up *v1alpha1.UpgradePlan, address string) error {
	if err := a.Allowed.Address(up.Namespace, address); err != nil {
		return fmt.Errorf("a plan of namespace %s may not name the arbiter at %s: %w", up.Namespace, address, err)
	}
	return nil
}
