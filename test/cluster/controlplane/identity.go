package controlplane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Identity is someone who talks to the API server: Admin, User or ServiceAccount.
type Identity struct {
	user      string
	groups    []string
	namespace string // of a service account
}

// Admin may do everything; it is the user "admin" of the group system:masters.
func Admin() Identity { return User("admin", "system:masters") }

// User is a user with a client certificate. It may do what RBAC says.
func User(name string, groups ...string) Identity { return Identity{user: name, groups: groups} }

// ServiceAccount is a service account, which must exist; it gets a token that
// is valid for 24 hours.
func ServiceAccount(namespace, name string) Identity {
	return Identity{user: name, namespace: namespace}
}

// Username is the name by which the API server and its audit log know the identity.
func (i Identity) Username() string {
	if i.namespace == "" {
		return i.user
	}
	return "system:serviceaccount:" + i.namespace + ":" + i.user
}

// RESTConfig is how the identity reaches the API server, without any limit of
// the client's own on requests per second.
func (c *Cluster) RESTConfig(ctx context.Context, who Identity) (*rest.Config, error) {
	config := &rest.Config{
		Host:            "https://" + local(c.listen.apiServer),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.Certificate},
		QPS:             -1,
	}
	if who.namespace != "" {
		token, err := c.Token(ctx, who.namespace, who.user)
		config.BearerToken = token
		return config, err
	}
	pair, err := c.ca.Client(who.user, who.groups...)
	if err != nil {
		return nil, err
	}
	config.CertData, config.KeyData = pair.Certificate, pair.Key
	return config, nil
}

// Client is a client for the identity. scheme may be nil: then the client knows
// Kubernetes' own types and unstructured ones.
func (c *Cluster) Client(ctx context.Context, who Identity, scheme *runtime.Scheme) (client.WithWatch, error) {
	config, err := c.RESTConfig(ctx, who)
	if err != nil {
		return nil, err
	}
	if scheme == nil {
		scheme = clientgoscheme.Scheme
	}
	k, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", who.Username(), err)
	}
	return k, nil
}

// Token is a token of a service account, valid for 24 hours. Without audiences
// it is for the API server.
func (c *Cluster) Token(ctx context.Context, namespace, name string, audiences ...string) (string, error) {
	admin, err := c.Client(ctx, Admin(), nil)
	if err != nil {
		return "", err
	}
	day := int64(24 * 60 * 60)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &day}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := admin.SubResource("token").Create(ctx, account, request); err != nil {
		return "", fmt.Errorf("request a token for service account %s/%s: %w", namespace, name, err)
	}
	return request.Status.Token, nil
}

// Kubeconfig writes a kubeconfig file for the identity, with a fresh
// certificate or token, and returns its path, which is always the same.
func (c *Cluster) Kubeconfig(ctx context.Context, who Identity) (string, error) {
	name := regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(who.Username(), "_")
	path := filepath.Join(c.dir, "kubeconfig", name)
	if err := c.claimKubeconfig(path, who); err != nil {
		return "", err
	}
	config, err := c.RESTConfig(ctx, who)
	if err != nil {
		return "", err
	}
	data, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"offduty": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: config.BearerToken, ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"offduty": {Cluster: "offduty", AuthInfo: name}},
		CurrentContext: "offduty",
	})
	if err != nil {
		return "", fmt.Errorf("write a kubeconfig for %s: %w", who.Username(), err)
	}
	// By a rename, because a process may be reading the file of last time.
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return "", fmt.Errorf("write a kubeconfig for %s: %w", who.Username(), err)
	}
	return path, os.Rename(path+".new", path)
}

// claimKubeconfig makes sure that a file belongs to one identity: two users
// may differ in their groups only.
func (c *Cluster) claimKubeconfig(path string, who Identity) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	identity := fmt.Sprintf("%q", who)
	if owner, taken := c.kubeconfigs[path]; taken && owner != identity {
		return fmt.Errorf("write a kubeconfig for %s: %s belongs to another identity with a similar name; choose another name", who.Username(), path)
	}
	c.kubeconfigs[path] = identity
	return nil
}
