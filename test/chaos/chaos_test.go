// Package chaos lets everything go wrong at once, on the real control plane: processes are
// killed and frozen, ways are cut, writes denied, pods deleted, and the user changes their
// mind. One seed decides what and when. After each upgrade the troubles end, the plan has to
// complete and to leave nothing over, and all that happened is held against the promises.
package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// TestMain silences the client of Kubernetes, which would tell of every connection that is lost.
func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	clustertest.Main(m, controlplane.Options{})
}

// root is the module's folder.
const root = "../.."

// The slice that belongs to every run of the tests: long enough for every trouble and every
// step, and always the same.
const (
	sliceSeed   = 4
	sliceRounds = 3
)

var (
	soak   = flag.Duration("soak", 0, "go on for this long, with a seed of its own unless one is given")
	seed   = flag.Uint64("seed", 0, "what decides the schedule; 0: that of the slice, or with -soak any")
	single = flag.Int("round", -1, "run this round of the schedule alone")
)

func TestChaos(t *testing.T) {
	chosen := *seed
	switch {
	case chosen == 0 && *soak > 0:
		chosen = rand.Uint64()
	case chosen == 0:
		chosen = sliceSeed
	}
	w := newWorld(t)
	w.book.seed = chosen
	t.Cleanup(func() {
		w.count(t)
		fmt.Print(w.book)
	})
	until := time.Now().Add(*soak)
	rounds := schedule(chosen, max(sliceRounds, *single+1))
	for i := 0; i < len(rounds) || time.Now().Before(until); i++ {
		if i == len(rounds) {
			rounds = schedule(chosen, 2*i)
		}
		if *single >= 0 && *single != i {
			continue
		}
		if *soak > 0 && !time.Now().Before(until) {
			return
		}
		t.Run(fmt.Sprintf("round %d", i), func(t *testing.T) { w.run(t, rounds[i]) })
	}
}

// newWorld installs Offduty with two upgraders and with proxies on the ways to the arbiter.
func newWorld(t *testing.T) *world {
	t.Helper()
	c := clustertest.Shared(t)
	w := &world{ways: map[string]*harness.Proxy{}, locks: map[string]*sync.Mutex{}, book: newBook()}
	var err error
	if w.admin, err = c.Client(t.Context(), controlplane.Admin(), nil); err != nil {
		t.Fatal(err)
	}
	if w.system, err = harness.Install(t.Context(), c, root); err != nil {
		t.Fatal(err)
	}
	arbiter := w.system.ArbiterAddress
	for _, way := range []string{upgradersWay, applicationWay} {
		p, err := w.system.NewProxy(arbiter)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		w.ways[way] = p
	}
	w.system.ArbiterAddress = w.ways[applicationWay].Address()
	for _, name := range upgraders {
		if err := w.system.StartUpgrader(t.Context(), name, "--arbiter-address", w.ways[upgradersWay].Address()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.system.Kubectl(t.Context(), policies(), "apply", "--filename", "-"); err != nil {
		t.Fatal(err)
	}
	w.keeper = keep(context.WithoutCancel(t.Context()), c,
		append([]string{harness.ArbiterProcess, controlplane.Kruise, controlplane.APIServer, controlplane.Etcd}, upgraders...)...)
	t.Cleanup(w.keeper.stop)
	return w
}

// count adds to the book what is known only at the end.
func (w *world) count(t *testing.T) {
	t.Helper()
	w.keeper.mu.Lock()
	starts := 0
	for _, n := range w.keeper.starts {
		starts += n
	}
	w.keeper.mu.Unlock()
	w.book.add("processes started again", starts)
	refused, err := w.system.Cluster.AuditSince(0, func(e controlplane.AuditEvent) bool {
		return e.Code == http.StatusForbidden && e.User == harness.UpgraderAccount.Username()
	})
	if err != nil {
		t.Error(err)
	}
	w.book.add("writes of the upgraders denied", len(refused))
}

// book counts what happened.
type book struct {
	mu     sync.Mutex
	seed   uint64
	events map[string]int
	counts map[string]int
	order  []string
	begun  time.Time
	// longest is how long a plan took at most to complete after its troubles.
	longest    time.Duration
	upgrades   int
	violations int
}

func newBook() *book {
	return &book{events: map[string]int{}, counts: map[string]int{}, begun: time.Now()}
}

func (b *book) add(what string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.counts[what]; !ok {
		b.order = append(b.order, what)
	}
	b.counts[what] += n
}

func (b *book) happened(e event, at string) {
	b.mu.Lock()
	b.events[e.trouble.name]++
	b.mu.Unlock()
	b.add("events: "+at, 1)
}

func (b *book) complete(after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.upgrades++
	b.longest = max(b.longest, after)
}

// addEvidence counts what was judged.
func (b *book) addEvidence(e harness.Evidence, violations int) {
	b.mu.Lock()
	b.violations += violations
	b.mu.Unlock()
	releases, writes := 0, 0
	for _, w := range e.Writes {
		if w.Ours() {
			writes++
			if w.Hold != nil && !*w.Hold {
				releases++
			}
		}
	}
	b.add("shifts of the application", len(e.Shifts))
	b.add("writes of the upgraders", writes)
	b.add("holds released", releases)
	b.add("times that versions may be missing from the evidence", len(e.Gaps))
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out strings.Builder
	events := 0
	for _, k := range troubles() {
		fmt.Fprintf(&out, "%5d  %s\n", b.events[k.name], k.name)
		events += b.events[k.name]
	}
	for _, what := range b.order {
		fmt.Fprintf(&out, "%5d  %s\n", b.counts[what], what)
	}
	fmt.Fprintf(&out, "chaos: %d events, %d upgrades, %d violations in %s; complete %.1f s after the troubles at the latest; again: go test ./test/chaos -seed %d\n",
		events, b.upgrades, b.violations, time.Since(b.begun).Round(time.Second), b.longest.Seconds(), b.seed)
	return out.String()
}
