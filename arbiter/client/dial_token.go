package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
)

// tokenFile is a bearer token in a file, such as a projected service-account token. The
// kubelet replaces it long before it expires, so it is read for each call: calls are few.
type tokenFile string

// GetRequestMetadata returns the token, for a connection that nobody can listen to.
func (f tokenFile) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, ok := credentials.RequestInfoFromContext(ctx)
	if !ok {
		return nil, errors.New("send the token: the connection is not known")
	}
	if err := credentials.CheckSecurityLevel(info.AuthInfo, credentials.PrivacyAndIntegrity); err != nil {
		return nil, fmt.Errorf("send the token: %w", err)
	}
	data, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return nil, fmt.Errorf("read the token: %s is empty", string(f))
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity makes grpc refuse a connection without TLS.
func (f tokenFile) RequireTransportSecurity() bool { return true }
