package controller

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/metrics"
	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/store"
)

// StandaloneRoster is a Roster for the mode without Kubernetes: its members are names,
// and one is present while it attends.
type StandaloneRoster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              StandaloneSpec `json:"spec"`
}

// StandaloneSpec is a RosterSpec whose members are listed.
type StandaloneSpec struct {
	Members           StandaloneMembers       `json:"members"`
	Floor             v1alpha1.Floor          `json:"floor"`
	MaxLeased         int32                   `json:"maxLeased,omitempty"`
	FreezeWindows     []v1alpha1.FreezeWindow `json:"freezeWindows,omitempty"`
	PinOverdueSeconds int32                   `json:"pinOverdueSeconds,omitempty"`
	Assigned          v1alpha1.AssignedDuty   `json:"assigned"`
}

// StandaloneMembers names the members.
type StandaloneMembers struct {
	Names []string `json:"names"`
}

// DecodeStandalone reads the Rosters of a configuration file: YAML, one document each,
// with the defaults and the rules of the Roster's schema.
func DecodeStandalone(data []byte) ([]StandaloneRoster, error) {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var out []StandaloneRoster
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		var r StandaloneRoster
		if err := yaml.UnmarshalStrict(doc, &r); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if err := r.complete(); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		same := func(o StandaloneRoster) bool { return o.key() == r.key() }
		if slices.ContainsFunc(out, same) {
			return nil, fmt.Errorf("document %d: %s is there twice", n, r.key())
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no Roster in it")
	}
	return out, nil
}

func (r *StandaloneRoster) key() string { return r.Namespace + "/" + r.Name }

// complete sets the defaults of the schema and checks its rules.
func (r *StandaloneRoster) complete() error {
	s := &r.Spec
	def := func(v *int32, d int32) {
		if *v == 0 {
			*v = d
		}
	}
	def(&s.MaxLeased, 1)
	def(&s.PinOverdueSeconds, 1800)
	def(&s.Assigned.SettleSeconds, 120)
	def(&s.Assigned.FailoverSeconds, 10)
	def(&s.Assigned.LifetimeSeconds, 10)
	if s.Floor.Type == "" {
		s.Floor.Type = v1alpha1.FloorMinServing
	}
	switch {
	case r.APIVersion != v1alpha1.GroupVersion.String() || r.Kind != "Roster":
		return fmt.Errorf("it is %q of %q: want apiVersion %s, kind Roster", r.Kind, r.APIVersion, v1alpha1.GroupVersion)
	case r.Namespace == "" || r.Name == "":
		return errors.New("metadata: namespace and name are needed; together they name the group")
	case len(s.Members.Names) == 0:
		return errors.New("spec.members.names: the names of the replicas are needed")
	case !complete(s.Floor):
		return errors.New("spec.floor: needs minServing with type MinServing, percent with type Percent, or voters with type Quorum, and only that one")
	case (s.Assigned.Workers != nil) == (s.Assigned.Working != nil):
		return errors.New("spec.assigned: needs either workers (a number of slots) or working (names), and not both")
	}
	if _, err := windowsOf(s.FreezeWindows); err != nil {
		return err
	}
	return r.checkRanges()
}

// complete says whether a floor has what its type needs, and nothing else.
func complete(f v1alpha1.Floor) bool {
	given := map[v1alpha1.FloorType]bool{
		v1alpha1.FloorMinServing: f.MinServing != nil, v1alpha1.FloorPercent: f.Percent != nil, v1alpha1.FloorQuorum: f.Voters != nil,
	}
	wanted := given[f.Type]
	given[f.Type] = false
	for _, other := range given {
		wanted = wanted && !other
	}
	return wanted
}

func (r *StandaloneRoster) checkRanges() error {
	s := &r.Spec
	for _, x := range []struct {
		name      string
		v         *int32
		low, high int32
	}{
		{"maxLeased", &s.MaxLeased, 1, 1000},
		{"pinOverdueSeconds", &s.PinOverdueSeconds, 10, 604800},
		{"floor.minServing", s.Floor.MinServing, 0, 10000},
		{"floor.percent", s.Floor.Percent, 0, 100},
		{"floor.voters", s.Floor.Voters, 1, 10000},
		{"assigned.workers", s.Assigned.Workers, 0, 1000},
		{"assigned.settleSeconds", &s.Assigned.SettleSeconds, 120, 3600},
		{"assigned.failoverSeconds", &s.Assigned.FailoverSeconds, 1, 3600},
		{"assigned.lifetimeSeconds", &s.Assigned.LifetimeSeconds, 1, 300},
	} {
		if x.v != nil && (*x.v < x.low || *x.v > x.high) {
			return fmt.Errorf("spec.%s: %d is not within %d and %d", x.name, *x.v, x.low, x.high)
		}
	}
	for i := range s.FreezeWindows {
		if d := s.FreezeWindows[i].DurationMinutes; d < 1 || d > 10080 {
			return fmt.Errorf("spec.freezeWindows[%d].durationMinutes: %d is not within 1 and 10080", i, d)
		}
	}
	for _, name := range s.Assigned.Working {
		if !slices.Contains(s.Members.Names, name) {
			return fmt.Errorf("spec.assigned.working: %s is not among spec.members.names", name)
		}
	}
	return nil
}

func (r *StandaloneRoster) settings() duty.Settings {
	s := SettingsOf(1, &v1alpha1.RosterSpec{
		Floor: r.Spec.Floor, MaxLeased: r.Spec.MaxLeased, FreezeWindows: r.Spec.FreezeWindows,
		PinOverdueSeconds: r.Spec.PinOverdueSeconds, Assigned: &r.Spec.Assigned,
	})
	s.Attended = r.Spec.Members.Names
	return s
}

// Standalone keeps the groups of a configuration file, with their records in a state file.
//
// An expired lease keeps its ban until its holder or an administrator releases it: there
// is nothing here with which to fence a replica.
type Standalone struct {
	groups map[string]*duty.Group
	config []StandaloneRoster
	wg     sync.WaitGroup
}

var _ server.Groups = (*Standalone)(nil)

// NewStandalone returns the groups; Start makes them run.
func NewStandalone(config []StandaloneRoster, state *store.File, now func() time.Time, log logr.Logger, m *metrics.Metrics) *Standalone {
	s := &Standalone{groups: map[string]*duty.Group{}, config: config}
	for i := range config {
		r := &config[i]
		s.groups[r.key()] = duty.New(duty.Config{
			Key: r.key(), Prefix: r.Namespace + "/", Store: m.Store(state.Group(r.key())), Now: now, NewEpoch: NewEpoch, Log: log,
			Changed: m.Changed,
			// A state file that was lost cannot be told from one that never was: the time
			// keeps the new tokens above the old ones.
			FirstToken: func() int64 { return now().Unix() << tokenEpochShift },
		})
	}
	return s
}

// tokenEpochShift leaves room for a million tokens a second below the time in a token.
const tokenEpochShift = 20

// Start runs the groups until ctx is done, and returns when they are ready.
func (s *Standalone) Start(ctx context.Context) error {
	for i := range s.config {
		r := &s.config[i]
		g := s.groups[r.key()]
		s.wg.Go(func() { g.Run(ctx) })
		if err := g.Configure(ctx, r.settings(), nil); err != nil {
			return fmt.Errorf("start group %s: %w", r.key(), err)
		}
	}
	return nil
}

// Each calls fn with every group.
func (s *Standalone) Each(fn func(*duty.Group)) {
	for _, g := range s.groups {
		fn(g)
	}
}

// Wait returns when every group has stopped.
func (s *Standalone) Wait() { s.wg.Wait() }

// Group implements server.Groups.
func (s *Standalone) Group(_ context.Context, key string) (*duty.Group, error) {
	if g := s.groups[key]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("group %q: %w: it is not in the configuration file", key, server.ErrNoGroup)
}
