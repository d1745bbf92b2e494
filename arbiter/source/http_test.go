package source_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

// memberAt is the member db-1, which is at a server of the test.
func memberAt(t *testing.T, server *httptest.Server) application.Member {
	t.Helper()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	at, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return application.Member{Name: "db-1", Instance: "u1", Address: at.Addr().String(), Ports: map[string]int32{"api": int32(at.Port())}}
}

// askHTTP asks db-1, which answers with handler.
func askHTTP(t *testing.T, spec v1alpha1.HTTPSource, handler http.HandlerFunc) roster.Sight {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	spec.Port, spec.Probe.TimeoutSeconds = intstr.FromString("api"), 1
	s := source.NewHTTP(spec, nil)
	defer s.Close()
	return s.See(t.Context(), map[string]application.Member{"db-1": memberAt(t, server)})["db-1"]
}

func saying(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func TestAMemberSaysByJSONWhetherItWorks(t *testing.T) {
	most := new(int64(100))
	for name, tt := range map[string]struct {
		maxLag  *int64
		handler http.HandlerFunc
		want    roster.Sight
	}{
		"it works":                        {nil, saying(`{"duty":"working"}`), roster.Sight{Duty: roster.Working}},
		"it is idle":                      {nil, saying(`{"duty":"Idle","more":1}`), roster.Sight{Duty: roster.Idle}},
		"it does not know":                {nil, saying(`{"duty":"unknown","reason":"no  quorum"}`), roster.Sight{Duty: roster.Unknown, Why: "it says that it does not know: no quorum"}},
		"it says nothing of duty":         {nil, saying(`{}`), roster.Sight{Duty: roster.Unknown, Why: `it says "", which is no duty`}},
		"it says another word":            {nil, saying(`{"duty":"leader"}`), roster.Sight{Duty: roster.Unknown, Why: `it says "leader", which is no duty`}},
		"it says no JSON":                 {nil, saying(`idle`), roster.Sight{Duty: roster.Unknown, Why: "GET /duty was answered with no JSON of a duty"}},
		"it says more than anybody reads": {nil, saying(`{"duty":"idle","x":"` + strings.Repeat("x", 70_000) + `"}`), roster.Sight{Duty: roster.Unknown, Why: "GET /duty was answered with no JSON of a duty"}},
		"it fails": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"duty":"idle"}`)
		}, roster.Sight{Duty: roster.Unknown, Why: "GET /duty was answered with 503"}},
		"another replica answers":      {nil, saying(`{"duty":"idle","replica":"db-2"}`), roster.Sight{Duty: roster.Unknown, Why: "another replica answered at its address: db-2"}},
		"another instance answers":     {nil, saying(`{"duty":"idle","replica":"db-1","instance":"u0"}`), roster.Sight{Duty: roster.Unknown, Why: "another replica answered at its address: db-1 u0"}},
		"it itself answers":            {nil, saying(`{"duty":"idle","replica":"db-1","instance":"u1"}`), roster.Sight{Duty: roster.Idle}},
		"it lags, and nobody cares":    {nil, saying(`{"duty":"idle","lagBytes":5000}`), roster.Sight{Duty: roster.Idle}},
		"it lags as far as it may":     {most, saying(`{"duty":"idle","lagBytes":100}`), roster.Sight{Duty: roster.Idle}},
		"it lags too far":              {most, saying(`{"duty":"idle","lagBytes":101}`), roster.Sight{Duty: roster.Idle, Unfit: "it lags by more than 100 bytes"}},
		"it does not say how far":      {most, saying(`{"duty":"idle"}`), roster.Sight{Duty: roster.Idle, Unfit: "it does not say how far it lags"}},
		"its lag is nonsense":          {most, saying(`{"duty":"idle","lagBytes":-1}`), roster.Sight{Duty: roster.Idle, Unfit: "it does not say how far it lags"}},
		"it ends the connection":       {nil, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, roster.Sight{Duty: roster.Unknown, Why: "GET /duty: EOF"}},
		"it takes longer than allowed": {nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, roster.Sight{Duty: roster.Unknown, Why: "GET /duty: no answer within 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.want.Instance = "u1"
			got := askHTTP(t, v1alpha1.HTTPSource{Path: "/duty", MaxLagBytes: tt.maxLag}, tt.handler)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// answering answers paths with 200, and all others with 503, as Patroni does.
func answering(paths ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, p := range paths {
			if r.URL.RequestURI() == p {
				return
			}
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func TestAMemberShowsByStatusWhetherItWorks(t *testing.T) {
	answer := func(path string) *v1alpha1.HTTPAnswer { return &v1alpha1.HTTPAnswer{Path: path, Status: 200} }
	spec := v1alpha1.HTTPSource{Working: answer("/primary"), Idle: answer("/replica"), Fit: answer("/replica?lag=1MB")}
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    roster.Sight
	}{
		"a primary":                    {answering("/primary"), roster.Sight{Duty: roster.Working, Unfit: "GET /replica?lag=1MB was not answered with 200"}},
		"a replica that is up to date": {answering("/replica", "/replica?lag=1MB"), roster.Sight{Duty: roster.Idle}},
		"a replica that lags":          {answering("/replica"), roster.Sight{Duty: roster.Idle, Unfit: "GET /replica?lag=1MB was not answered with 200"}},
		"one that starts":              {answering(), roster.Sight{Duty: roster.Unknown, Why: "neither GET /primary was answered with 200, nor GET /replica with 200"}},
		"one that contradicts itself":  {answering("/primary", "/replica"), roster.Sight{Duty: roster.Unknown, Why: "it contradicts itself: GET /primary says that it works, and GET /replica that it is idle"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.want.Instance = "u1"
			if diff := cmp.Diff(tt.want, askHTTP(t, spec, tt.handler)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNobodyButTheMemberIsAsked(t *testing.T) {
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"duty":"idle"}`)
	}))
	defer other.Close()
	t.Setenv("HTTP_PROXY", other.URL)
	t.Run("a redirect is an answer like any other", func(t *testing.T) {
		got := askHTTP(t, v1alpha1.HTTPSource{Path: "/duty"}, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
		if got.Why != "GET /duty was answered with 302" {
			t.Errorf("got %+v", got)
		}
	})
	for _, path := range []string{strings.TrimPrefix(other.URL, "http:"), other.URL, "/\\" + strings.TrimPrefix(other.URL, "http://")} {
		t.Run("the path "+path, func(t *testing.T) {
			got := askHTTP(t, v1alpha1.HTTPSource{Path: path}, saying(`{"duty":"working"}`))
			if got.Duty == roster.Idle {
				t.Errorf("got %+v", got)
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("somebody else was asked %d times", n)
	}
}

// TestAMemberIsAskedToHandOver: one POST, to the one that works, which names both.
func TestAMemberIsAskedToHandOver(t *testing.T) {
	for name, tt := range map[string]struct {
		status  int
		refused bool
		says    string
	}{
		"it does so":                   {http.StatusOK, false, ""},
		"it will":                      {http.StatusAccepted, false, ""},
		"it refuses":                   {http.StatusPreconditionFailed, true, "412: no such candidate"},
		"it has failed, at what step?": {http.StatusServiceUnavailable, false, "503: no such candidate"},
		"it sends us elsewhere":        {http.StatusFound, false, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got = append(got, r.Method+" "+r.URL.Path+" "+string(body))
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				fmt.Fprint(w, "no such candidate")
			}))
			defer server.Close()
			s := source.NewHTTP(v1alpha1.HTTPSource{
				Endpoint: v1alpha1.Endpoint{Port: intstr.FromString("api")}, Handover: &v1alpha1.HTTPHandover{Path: "/switchover"},
			}, nil)
			defer s.Close()
			err := s.HandOver(t.Context(), memberAt(t, server), application.Member{Name: "db-2"})
			if errors.Is(err, application.ErrRefused) != tt.refused || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the error is %v", err)
			}
			if want := []string{`POST /switchover {"candidate":"db-2","leader":"db-1"}`}; !cmp.Equal(got, want) {
				t.Errorf("the member got %q, not %q", got, want)
			}
		})
	}
	t.Run("nobody is there", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		m := memberAt(t, server)
		server.Close()
		s := source.NewHTTP(v1alpha1.HTTPSource{
			Endpoint: v1alpha1.Endpoint{Port: intstr.FromString("api")}, Handover: &v1alpha1.HTTPHandover{Path: "/switchover"},
		}, nil)
		defer s.Close()
		if err := s.HandOver(t.Context(), m, application.Member{Name: "db-2"}); !errors.Is(err, application.ErrRefused) {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestWhoseAddressIsAsked(t *testing.T) {
	for ip, want := range map[string]string{
		"10.1.2.3": "", "fd00::7": "", "": "it has no address yet", "db.example.com": `its address "db.example.com" is none`,
		"127.0.0.1": "its address 127.0.0.1 is no pod's own", "::1": "its address ::1 is no pod's own", "::ffff:127.0.0.1": "its address 127.0.0.1 is no pod's own",
		"169.254.169.254": "its address 169.254.169.254 is no pod's own", "fe80::1": "its address fe80::1 is no pod's own", "fe80::1%eth0": `its address "fe80::1%eth0" is none`,
		"0.0.0.0": "its address 0.0.0.0 is no pod's own", "224.0.0.1": "its address 224.0.0.1 is no pod's own",
		"10.9.9.9": "it has the address of its node, which is not asked",
	} {
		m, err := source.MemberOf(&corev1.Pod{Status: corev1.PodStatus{PodIP: ip, HostIP: "10.9.9.9"}}, false)
		if got := fmt.Sprint(err); want == "" && (err != nil || m.Address != ip) || want != "" && got != want {
			t.Errorf("%s: %q at %q, want %q", ip, got, m.Address, want)
		}
	}
	if m, err := source.MemberOf(&corev1.Pod{Status: corev1.PodStatus{PodIP: "127.0.0.2"}}, true); err != nil || m.Address != "127.0.0.2" {
		t.Errorf("a test's own: %v, %+v", err, m)
	}
}

func TestAPortIsFoundByItsName(t *testing.T) {
	p := &corev1.Pod{
		Spec:   corev1.PodSpec{Containers: []corev1.Container{{Image: "a", Ports: []corev1.ContainerPort{{ContainerPort: 1}, {Name: "api", ContainerPort: 8008}}}, {}}},
		Status: corev1.PodStatus{PodIP: "10.1.2.3"},
	}
	source.Strip(p)
	if diff := cmp.Diff([]corev1.Container{{Ports: []corev1.ContainerPort{{Name: "api", ContainerPort: 8008}}}}, p.Spec.Containers); diff != "" {
		t.Error(diff)
	}
	m, err := source.MemberOf(p, false)
	if err != nil || m.Ports["api"] != 8008 {
		t.Errorf("%v, %+v", err, m)
	}
	s := source.NewHTTP(v1alpha1.HTTPSource{Endpoint: v1alpha1.Endpoint{Port: intstr.FromString("apo")}, Path: "/", Probe: v1alpha1.Probing{TimeoutSeconds: 1}}, nil)
	if got := s.See(t.Context(), map[string]application.Member{"a": m})["a"].Why; got != `its pod has no port named "apo"` {
		t.Error(got)
	}
}

func TestMembersAreRecognisedByTheirCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(saying(`{"duty":"idle"}`))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	full := &tls.Config{RootCAs: pool, ServerName: "example.com", Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12}
	with := func(change func(c *tls.Config)) source.Credentials {
		c := full.Clone()
		change(c)
		return func(context.Context) (*tls.Config, error) { return c, nil }
	}
	for name, tt := range map[string]struct {
		credentials source.Credentials
		why         string
	}{
		"all is well":               {with(func(*tls.Config) {}), ""},
		"by its address":            {with(func(c *tls.Config) { c.ServerName = "" }), ""},
		"another name":              {with(func(c *tls.Config) { c.ServerName = "db" }), "certificate is valid for example.com"},
		"an unknown authority":      {with(func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }), "certificate signed by unknown authority"},
		"without a certificate":     {with(func(c *tls.Config) { c.Certificates = nil }), "certificate required"},
		"the secret cannot be read": {func(context.Context) (*tls.Config, error) { return nil, errors.New("read the secret: it is gone") }, "read the secret: it is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			s := source.NewHTTP(v1alpha1.HTTPSource{
				Endpoint: v1alpha1.Endpoint{Port: intstr.FromString("api")}, Scheme: v1alpha1.SchemeHTTPS, Path: "/duty", Probe: v1alpha1.Probing{TimeoutSeconds: 5},
			}, tt.credentials)
			defer s.Close()
			got := s.See(t.Context(), map[string]application.Member{"db-1": memberAt(t, server)})["db-1"]
			if tt.why == "" && got.Duty != roster.Idle || !strings.Contains(got.Why, tt.why) {
				t.Errorf("got %+v, want %q", got, tt.why)
			}
		})
	}
}
