package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"offduty.dev/test/e2e/harness"
)

// talkers is an application that decides by itself who works, and says so to whoever asks its
// members: five processes, each at the address of a simulated pod, which has no network.
type talkers struct {
	*voters
	port int

	mu sync.Mutex
	// working is who works; deaf are those who do not answer.
	working string
	deaf    map[string]bool
	// posts are the handovers that were asked for, and who was asked.
	posts []string
}

func newTalkers(s *stage) *talkers {
	s.t.Helper()
	k := &talkers{voters: &voters{stage: s}, deaf: map[string]bool{}}
	for i := range 5 {
		name := fmt.Sprintf("sample-%d", i)
		var lc net.ListenConfig
		l, err := lc.Listen(s.t.Context(), "tcp", fmt.Sprintf("%s:%d", k.address(i), k.port))
		if err != nil {
			s.t.Skipf("needs addresses from 127.0.0.0/8 for pods: %v", err)
		}
		k.port = l.Addr().(*net.TCPAddr).Port
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: k.member(name)}} //nolint:gosec // a test's
		server.Start()
		s.t.Cleanup(server.Close)
	}
	return k
}

func (k *talkers) address(i int) string { return fmt.Sprintf("127.70.0.%d", i+1) }

// member answers for one of them.
func (k *talkers) member(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		switch {
		case k.deaf[name]:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodGet && r.URL.Path == "/duty":
			d := map[string]any{"duty": "idle", "replica": name}
			if k.working == name {
				d["duty"] = "working"
			}
			if err := json.NewEncoder(w).Encode(d); err != nil {
				k.t.Error(err)
			}
		case r.Method == http.MethodPost && r.URL.Path == "/handover":
			k.handOver(w, r, name)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

// handOver moves duty when the one that works is asked to, after it has answered. The lock is held.
func (k *talkers) handOver(w http.ResponseWriter, r *http.Request, name string) {
	var q struct{ Leader, Candidate string }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		k.t.Error(err)
	}
	k.posts = append(k.posts, fmt.Sprintf("%s: %s to %s", name, q.Leader, q.Candidate))
	if q.Leader != name || k.working != name {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	go k.move(q.Candidate)
}

// move lets duty go to a replica, at this moment.
func (k *talkers) move(to string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if n := len(k.shifts); n > 0 {
		k.shifts[n-1].To = now
	}
	k.working = to
	k.shifts = append(k.shifts, harness.Shift{Pod: to, UID: k.History.Now().Pods[to].UID, From: now})
}

func (k *talkers) silence(name string, deaf bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf[name] = deaf
}

// settle gives the pods their addresses.
func (k *talkers) settle() {
	k.t.Helper()
	for i := range 5 {
		patch := fmt.Sprintf(`{"status":{"podIP":%q,"podIPs":[{"ip":%q}]}}`, k.address(i), k.address(i))
		_, err := k.Kubectl(k.t.Context(), "", "patch", "pod", fmt.Sprintf("sample-%d", i), "--namespace", k.Namespace,
			"--subresource=status", "--type=merge", "--patch", patch)
		k.must(err)
	}
}

func (k *talkers) prove() {
	k.t.Helper()
	e, err := k.Evidence(k.t.Context())
	k.must(err)
	k.mu.Lock()
	defer k.mu.Unlock()
	e.Shifts = k.shifts
	for _, violation := range append(e.Prove(), e.ProveGuards()...) {
		k.t.Error(violation)
	}
}

func TestAnObservedRosterByHTTP(t *testing.T) {
	s := newStage(t)
	k := newTalkers(s)
	s.apply(harness.ObservedManifest(fmt.Sprintf(`{workers: 1, http: {port: %d, path: /duty, probe: {periodSeconds: 1, maxAgeSeconds: 5}}}`, k.port)))
	s.apply(harness.SetManifest())
	s.awaitFive(true)
	before := s.History.Now().Pods
	k.move("sample-0")
	k.settle()
	s.await("the one that says so works", says("sample-0", "OnDuty"))
	k.silence("sample-3", true)
	s.await("one that does not answer is unknown", says("sample-0", "DutyUnknown"))
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("the others are upgraded", waiting("3/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 2, 4), 2)
	k.silence("sample-3", false)
	s.await("and that one when it answers again", waiting("4/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 2, 3, 4), 1)
	s.must(s.Patch(t.Context(), "roster", harness.Group, `{"spec":{"observed":{"http":{"handover":{"path":"/handover"}}}}}`))
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Request, maxUnavailable: 2}"))
	s.await("the plan is ready when the application was asked to move duty", settled)
	s.check(before, upgraded(0, 1, 2, 3, 4), parked)
	k.mu.Lock()
	if len(k.posts) != 1 || !strings.HasPrefix(k.posts[0], "sample-0: sample-0 to ") {
		t.Errorf("the application was asked to hand over %q, and not once, from sample-0", k.posts)
	}
	k.mu.Unlock()
	out, err := s.Kubectl(t.Context(), "", "get", "rosters", "--namespace", s.Namespace)
	s.must(err)
	t.Log("\n" + strings.TrimSpace(out))
	k.prove()
}
