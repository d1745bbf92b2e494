package controller

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/arbiter/server"
)

// reviewer is an API server that answers every TokenReview alike.
type reviewer struct {
	client.Writer

	asked  int
	answer authenticationv1.TokenReviewStatus
	err    error
}

func (r *reviewer) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	review := o.(*authenticationv1.TokenReview)
	r.asked++
	review.Status = r.answer
	if len(review.Spec.Audiences) != 1 || review.Spec.Audiences[0] != TokenAudience {
		return errors.New("the review is for another audience")
	}
	return r.err
}

func authenticated(user string, audiences ...string) authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: audiences,
		User: authenticationv1.UserInfo{Username: user, Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"app-0"}, "authentication.kubernetes.io/pod-uid": {"u"},
		}},
	}
}

func TestWhoseATokenIs(t *testing.T) {
	const account = "system:serviceaccount:ns:app"
	tests := map[string]struct {
		answer  authenticationv1.TokenReviewStatus
		err     error
		token   string
		want    server.Account
		refused string
		failed  string
	}{
		"a token for us":                {answer: authenticated(account, TokenAudience), want: server.Account{Name: account, Pod: "app-0", PodUID: "u"}},
		"a token that is not known":     {answer: authenticationv1.TokenReviewStatus{Error: "invalid bearer token"}, refused: "invalid bearer token"},
		"one without a word why":        {answer: authenticationv1.TokenReviewStatus{}, refused: "has expired"},
		"a token for the API server":    {answer: authenticated(account, "https://kubernetes.default.svc"), refused: `not for "offduty.dev/arbiter"`},
		"an API server without a clue":  {answer: authenticated(account), refused: "audiences []"},
		"a user who calls himself ours": {answer: authenticated("offduty-upgrader", TokenAudience), refused: "not a service account"},
		"something too long to be one":  {token: strings.Repeat("x", longestToken+1), refused: "too long"},
		"an API server that is away":    {err: errors.New("connection refused"), failed: "ask the API server: connection refused"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.token == "" {
				tt.token = "t"
			}
			got, err := NewTokens(&reviewer{answer: tt.answer, err: tt.err}, time.Now).Review(t.Context(), tt.token)
			refused, failed := "", ""
			if no, ok := errors.AsType[*server.TokenRefused](err); ok {
				refused = no.Why
			} else if err != nil {
				failed = err.Error()
			}
			agree(t, "the refusal", refused, tt.refused)
			agree(t, "the failure", failed, tt.failed)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("the account (-want +got):\n%s", diff)
			}
		})
	}
}

// agree wants a text to contain another, and to be empty when that is.
func agree(t *testing.T, what, got, want string) {
	t.Helper()
	if (want == "") != (got == "") || !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestATokenIsRememberedForAShortTime(t *testing.T) {
	now := time.Unix(0, 0)
	api := &reviewer{answer: authenticated("system:serviceaccount:ns:app", TokenAudience)}
	tokens := NewTokens(api, func() time.Time { return now })
	review := func(wantAsked int, wantErr bool) {
		t.Helper()
		if _, err := tokens.Review(t.Context(), "t"); (err != nil) != wantErr || api.asked != wantAsked {
			t.Errorf("after %s: error %v, asked %d times, want %d", now.Sub(time.Unix(0, 0)), err, api.asked, wantAsked)
		}
	}
	review(1, false)
	now = now.Add(rememberToken / 2)
	api.answer = authenticationv1.TokenReviewStatus{} // revoked
	review(1, false)
	now = now.Add(rememberToken)
	review(2, true)
	review(2, true) // the refusal is remembered as well
	api.err = errors.New("away")
	now = now.Add(2 * rememberToken)
	review(3, true)
	api.err, api.answer = nil, authenticated("system:serviceaccount:ns:app", TokenAudience)
	review(4, false) // a failure to ask is not
	for i := range 2 * rememberedTokens {
		if _, err := tokens.Review(t.Context(), strings.Repeat("x", i%100)+string(rune(i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(tokens.known.Keys()); n > rememberedTokens {
		t.Errorf("%d tokens are remembered", n)
	}
}

// stuck is an API server that does not answer until it is let.
type stuck struct {
	client.Writer

	asked, release chan struct{}
}

func (s *stuck) Create(ctx context.Context, _ client.Object, _ ...client.CreateOption) error {
	s.asked <- struct{}{}
	select {
	case <-s.release:
		return errors.New("released")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestAFloodOfTokensIsNotKept(t *testing.T) {
	api := &stuck{asked: make(chan struct{}, reviewsAtOnce), release: make(chan struct{})}
	tokens := NewTokens(api, time.Now)
	const calls = 2 * reviewsWaiting
	answers := make(chan error, calls)
	for i := range calls {
		go func() {
			_, err := tokens.Review(t.Context(), strconv.Itoa(i))
			answers <- err
		}()
	}
	for range reviewsAtOnce {
		<-api.asked
	}
	// Those for which there is no room are answered while nobody else is.
	for range calls - reviewsWaiting {
		if err := <-answers; !errors.Is(err, errBusy) {
			t.Fatalf("got %v, want %v", err, errBusy)
		}
	}
	close(api.release)
	for left := reviewsWaiting; left > 0; {
		select {
		case <-api.asked:
		case err := <-answers:
			if left--; err == nil {
				t.Error("a token is accepted that nobody knows")
			}
		}
	}
}
