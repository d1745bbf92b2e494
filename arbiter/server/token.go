package server

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// accountPrefix begins the user name of every service account.
const accountPrefix = "system:serviceaccount:"

// IsAccount says whether a name, or a pattern, is that of service accounts.
func IsAccount(name string) bool { return strings.HasPrefix(name, accountPrefix) }

// Account is a service account, as its token vouches for it.
type Account struct {
	// Name is system:serviceaccount:NAMESPACE:NAME.
	Name string
	// Pod and PodUID are those of the pod to which the token is bound; empty: to none.
	Pod, PodUID string
}

// namespace is the account's, and its pod's.
func (a Account) namespace() string {
	namespace, _, _ := strings.Cut(strings.TrimPrefix(a.Name, accountPrefix), ":")
	return namespace
}

// Tokens finds out whose a token is.
type Tokens interface {
	// Review fails with a *TokenRefused when the token is no good, and otherwise when that
	// could not be found out.
	Review(ctx context.Context, token string) (Account, error)
}

// TokenRefused is why a token is not accepted.
type TokenRefused struct{ Why string }

func (e *TokenRefused) Error() string {
	return fmt.Sprintf("the token is refused: %s: use a service-account token for the arbiter's audience", e.Why)
}

// bearer returns the token that came with a call; empty if none did.
func bearer(ctx context.Context) string {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// mayAttend lets a pod attend as itself. A name in a certificate, which many share, may
// attend as anybody: who has it is trusted with all groups.
func (i Identity) mayAttend(replica, instance string) error {
	a := i.Account
	if a == nil {
		return nil
	}
	if own := a.namespace() + "/" + a.Pod; a.Pod == "" || replica != own || instance != a.PodUID {
		return status.Errorf(codes.PermissionDenied,
			"attend as replica %q, instance %q: the token is that of pod %q with UID %q of account %s, which attends as itself only",
			replica, instance, own, a.PodUID, a.Name)
	}
	return nil
}
