package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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

// Roles says which names have which role: names in client certificates, and user names of
// service accounts, as system:serviceaccount:NAMESPACE:NAME. One of the latter may end in
// "*", which stands for any rest.
type Roles struct {
	Upgraders, Attendants, Admins []string
}

// Identity is who calls.
type Identity struct {
	// Names of the client certificate: URIs, DNS names, common name.
	Names []string
	// Account is the one whose token came with the call; nil if none was needed.
	Account *Account
	// Plaintext: the server has no TLS, everybody on this machine may do everything.
	Plaintext bool
}

// Name is the identity in one word, for records: that which the call was let in for.
func (i Identity) Name() string {
	switch {
	case i.Plaintext:
		return "insecure"
	case i.Account != nil:
		return i.Account.Name
	case len(i.Names) > 0:
		return i.Names[0]
	}
	return "unknown"
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

// has says whether one of the names has a role.
func (r Roles) has(role Role, names ...string) bool {
	switch role {
	case RoleUpgrader:
		return listed(r.Upgraders, names)
	case RoleAttendant:
		return listed(r.Attendants, names)
	case RoleAdmin:
		return listed(r.Admins, names)
	case roleAny:
		return listed(r.Upgraders, names) || listed(r.Attendants, names) || listed(r.Admins, names)
	}
	return false
}

// admits says whether one of the names in a certificate has one of the roles. One that
// reads like a service account's is none: that only a token vouches for.
func (r Roles) admits(roles []Role, names []string) bool {
	own := slices.DeleteFunc(slices.Clone(names), IsAccount)
	return r.hasAny(roles, own...)
}

// hasAny says whether one of the names has one of the roles.
func (r Roles) hasAny(roles []Role, names ...string) bool {
	return slices.ContainsFunc(roles, func(role Role) bool { return r.has(role, names...) })
}

func listed(list, names []string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		start, any := strings.CutSuffix(entry, "*")
		return slices.ContainsFunc(names, func(n string) bool {
			return n == entry || any && IsAccount(entry) && strings.HasPrefix(n, start)
		})
	})
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
	tokens    Tokens
	// again is how often the caller of a stream is looked at.
	again time.Duration
}

// admit returns who calls, or UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE. A token
// is looked at only when the certificate does not suffice.
func (g guard) admit(ctx context.Context, method string) (Identity, error) {
	if g.plaintext {
		return Identity{Plaintext: true}, nil
	}
	allowed := rolesFor(method)
	names, problem := certified(ctx)
	if problem == nil && g.roles.admits(allowed, names) {
		return Identity{Names: names}, nil
	}
	who := Identity{Names: names}
	if token := bearer(ctx); token != "" && g.tokens != nil {
		account, err := g.tokens.Review(ctx, token)
		var no *TokenRefused
		switch {
		case errors.As(err, &no):
			problem = errors.Join(problem, err)
		case err != nil:
			return Identity{}, status.Error(codes.Unavailable, err.Error())
		case g.roles.hasAny(allowed, account.Name):
			who.Account = &account
			return who, nil
		default:
			problem = nil // we know who it is
			who.Names = append(slices.Clone(names), account.Name)
		}
	}
	if problem != nil {
		return Identity{}, status.Error(codes.Unauthenticated, problem.Error())
	}
	return Identity{}, status.Errorf(codes.PermissionDenied,
		"%s needs the role %s: the caller is %q; the arbiter's flags --upgrader-names, --attendant-names and --admin-names give roles to names",
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

// certified returns the names of the client certificate, or what is wrong with it by now.
func certified(ctx context.Context) ([]string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("the connection has no peer")
	}
	info, ok := p.AuthInfo.(*verifiedInfo)
	if !ok {
		return nil, errors.New("the connection has no TLS")
	}
	return info.current()
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	who, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(context.WithValue(ctx, identityKey{}, who), req)
}

// admitAgain is how often it is asked whether the caller of a stream may still call.
const admitAgain = time.Minute

// errNoLonger ends a stream whose caller is not accepted any more.
var errNoLonger = errors.New("the certificate or token of this call is not accepted any more: call again with the present one")

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	who, err := g.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(ss.Context(), identityKey{}, who))
	defer cancel(nil)
	go g.watch(ctx, ss.Context(), info.FullMethod, cancel)
	err = next(srv, &identifiedStream{ServerStream: ss, ctx: ctx})
	if why := context.Cause(ctx); errors.Is(why, errNoLonger) {
		// Unavailable: a caller that has a newer certificate or token just calls again.
		return status.Error(codes.Unavailable, why.Error())
	}
	return err
}

// watch cancels a stream when its caller is not accepted any more. While that cannot be
// found out, the stream goes on.
func (g guard) watch(ctx, call context.Context, method string, cancel context.CancelCauseFunc) {
	again := time.NewTicker(g.again)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		if _, err := g.admit(call, method); err != nil && status.Code(err) != codes.Unavailable {
			cancel(fmt.Errorf("%w (%s)", errNoLonger, status.Convert(err).Message()))
			return
		}
	}
}

type identifiedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // grpc wants it this way
}

func (s *identifiedStream) Context() context.Context { return s.ctx }
