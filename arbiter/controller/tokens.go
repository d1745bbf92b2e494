package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/arbiter/server"
)

// TokenAudience is for whom a token must have been made: one for the API server or for
// another service opens nothing here, and one for us opens nothing there.
const TokenAudience = "offduty.dev/arbiter" //nolint:gosec // a name, not a secret

const (
	// rememberToken is how long a token goes on to work after it was revoked. The API
	// server itself remembers for about as long.
	rememberToken = 10 * time.Second
	// rememberedTokens bounds what strangers can make us keep.
	rememberedTokens = 4096
	// reviewsAtOnce bounds what strangers can make us ask.
	reviewsAtOnce = 16
	// reviewsWaiting bounds what we keep of calls that wait for their turn.
	reviewsWaiting = 1024
	// longestToken is more than any service account's has.
	longestToken = 16 << 10
	reviewWithin = 5 * time.Second
)

// Tokens asks the API server whose a token is. It implements server.Tokens.
type Tokens struct {
	writer client.Writer
	known  *cache.LRUExpireCache // hash of a token to verdict
	asking singleflight.Group
	// slots are for reviews under way, turns for these and those that wait for a slot.
	slots, turns chan struct{}
}

type verdict struct {
	account server.Account
	refused *server.TokenRefused
}

var errBusy = errors.New("review a token: too many others are under review; call again")

// clockFunc is a clock for the cache.
type clockFunc func() time.Time

// Now implements cache.Clock.
func (f clockFunc) Now() time.Time { return f() }

// NewTokens returns Tokens that ask through w.
func NewTokens(w client.Writer, now func() time.Time) *Tokens {
	return &Tokens{
		writer: w, slots: make(chan struct{}, reviewsAtOnce), turns: make(chan struct{}, reviewsWaiting),
		known: cache.NewLRUExpireCacheWithClock(rememberedTokens, clockFunc(now)),
	}
}

// Review implements server.Tokens.
func (t *Tokens) Review(ctx context.Context, token string) (server.Account, error) {
	if len(token) > longestToken {
		return server.Account{}, &server.TokenRefused{Why: "it is too long"}
	}
	hash := sha256.Sum256([]byte(token))
	if v, ok := t.known.Get(hash); ok {
		return v.(verdict).answer() //nolint:forcetypeassert // nothing else is put in
	}
	// The first who asks may go away while others wait for the same answer.
	answer := t.asking.DoChan(string(hash[:]), func() (any, error) {
		v, err := t.ask(context.WithoutCancel(ctx), token)
		if err == nil {
			t.known.Add(hash, v, rememberToken)
		}
		return v, err
	})
	select {
	case <-ctx.Done():
		return server.Account{}, fmt.Errorf("review a token: %w", context.Cause(ctx))
	case a := <-answer:
		if a.Err != nil {
			return server.Account{}, a.Err
		}
		return a.Val.(verdict).answer() //nolint:forcetypeassert // as above
	}
}

func (v verdict) answer() (server.Account, error) {
	if v.refused != nil {
		return server.Account{}, v.refused
	}
	return v.account, nil
}

func (t *Tokens) ask(ctx context.Context, token string) (verdict, error) {
	select {
	case t.turns <- struct{}{}:
		defer func() { <-t.turns }()
	default:
		return verdict{}, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, reviewWithin)
	defer cancel()
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return verdict{}, errBusy
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{TokenAudience}}}
	if err := t.writer.Create(ctx, review); err != nil {
		return verdict{}, fmt.Errorf("review a token: ask the API server: %w", err)
	}
	return judge(&review.Status), nil
}

// judge reads the API server's answer.
func judge(s *authenticationv1.TokenReviewStatus) verdict {
	no := func(format string, args ...any) verdict {
		return verdict{refused: &server.TokenRefused{Why: fmt.Sprintf(format, args...)}}
	}
	const account = "system:serviceaccount:"
	switch {
	case !s.Authenticated && s.Error != "":
		return no("%s", s.Error)
	case !s.Authenticated:
		return no("the API server does not know it, or it has expired")
	case !slices.Contains(s.Audiences, TokenAudience):
		return no("it is for the audiences %q and not for %q", s.Audiences, TokenAudience)
	case !strings.HasPrefix(s.User.Username, account):
		// Another authenticator may give out any name, also one of our roles.
		return no("%q is not a service account", s.User.Username)
	}
	extra := func(key string) string {
		if v := s.User.Extra["authentication.kubernetes.io/"+key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	return verdict{account: server.Account{Name: s.User.Username, Pod: extra("pod-name"), PodUID: extra("pod-uid")}}
}
