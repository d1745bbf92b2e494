package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Role is what a client may do.
type Role string

// The roles.
const (
	RoleUpgrader  Role = "upgrader"
	RoleAttendant Role = "attendant"
	RoleAdmin     Role = "admin"
	// roleAny is any client that is known at all.
	roleAny Role = ""
)

// Roles says which names in client certificates have which role.
type Roles struct {
	Upgraders, Attendants, Admins []string
}

// Identity is who calls.
type Identity struct {
	// Names of the client certificate: URIs, DNS names, common name.
	Names []string
	// Plaintext: the server has no TLS, everybody on this machine may do everything.
	Plaintext bool
}

// Name is the identity in one word, for records.
func (i Identity) Name() string {
	switch {
	case i.Plaintext:
		return "insecure"
	case len(i.Names) == 0:
		return "unknown"
	}
	return i.Names[0]
}

// namesOf returns the names a certificate vouches for.
func namesOf(cert *x509.Certificate) []string {
	var names []string
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	names = append(names, cert.DNSNames...)
	if cn := cert.Subject.CommonName; cn != "" && !slices.Contains(names, cn) {
		names = append(names, cn)
	}
	return names
}

// has says whether an identity has a role.
func (r Roles) has(i Identity, role Role) bool {
	if i.Plaintext {
		return true
	}
	known := func(names []string) bool {
		return slices.ContainsFunc(i.Names, func(n string) bool { return slices.Contains(names, n) })
	}
	switch role {
	case RoleUpgrader:
		return known(r.Upgraders)
	case RoleAttendant:
		return known(r.Attendants)
	case RoleAdmin:
		return known(r.Admins)
	case roleAny:
		return known(r.Upgraders) || known(r.Attendants) || known(r.Admins)
	}
	return false
}

// rolesFor says who may call a method; nobody may call what is not listed.
func rolesFor(method string) []Role {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch method {
	case arbiterv1.ArbiterService_ForceReleaseLease_FullMethodName:
		return []Role{RoleAdmin}
	case arbiterv1.ArbiterService_ListReplicas_FullMethodName,
		arbiterv1.ArbiterService_WatchReplicas_FullMethodName,
		arbiterv1.ArbiterService_GetCapabilities_FullMethodName:
		return []Role{RoleUpgrader, RoleAdmin}
	}
	switch service {
	case arbiterv1.ArbiterService_ServiceDesc.ServiceName:
		return []Role{RoleUpgrader}
	case arbiterv1.AttendanceService_ServiceDesc.ServiceName:
		return []Role{RoleAttendant}
	case "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection":
		return []Role{roleAny}
	}
	return nil
}

type identityKey struct{}

// IdentityFrom returns who calls.
func IdentityFrom(ctx context.Context) Identity {
	i, _ := ctx.Value(identityKey{}).(Identity)
	return i
}

// guard lets a call through or refuses it.
type guard struct {
	roles     Roles
	plaintext bool
}

// admit returns a context that knows the caller, or UNAUTHENTICATED or PERMISSION_DENIED.
func (g guard) admit(ctx context.Context, method string) (context.Context, error) {
	who, err := g.identify(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	allowed := rolesFor(method)
	for _, role := range allowed {
		if g.roles.has(who, role) {
			return context.WithValue(ctx, identityKey{}, who), nil
		}
	}
	return nil, status.Errorf(codes.PermissionDenied,
		"%s needs the role %s: the client certificate names %q; the arbiter's flags --upgrader-names, --attendant-names and --admin-names give roles to names",
		method, orList(allowed), who.Names)
}

func orList(roles []Role) string {
	var s []string
	for _, r := range roles {
		if r == roleAny {
			return "upgrader, attendant or admin"
		}
		s = append(s, string(r))
	}
	return strings.Join(s, " or ")
}

func (g guard) identify(ctx context.Context) (Identity, error) {
	if g.plaintext {
		return Identity{Plaintext: true}, nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, fmt.Errorf("the connection has no peer")
	}
	info, ok := p.AuthInfo.(verifiedInfo)
	if !ok {
		return Identity{}, fmt.Errorf("the connection has no TLS")
	}
	if info.problem != nil {
		return Identity{}, info.problem
	}
	return Identity{Names: info.names}, nil
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &identifiedStream{ServerStream: ss, ctx: ctx})
}

type identifiedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // grpc wants it this way
}

func (s *identifiedStream) Context() context.Context { return s.ctx }
