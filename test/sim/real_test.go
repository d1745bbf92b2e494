package sim

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRealUpgraders runs seeds with the real upgrader in the processes, down to the bytes of
// its patches.
func TestRealUpgraders(t *testing.T) {
	const n = 8
	steps := 0
	for seed := uint64(1); seed <= n; seed++ {
		c := Case{Seed: seed, Troubled: Troubled, Bound: Bound, Real: true}
		s := c.Run()
		if steps += s.Steps(); s.Err() != nil {
			t.Fatalf("%v\n%s", s.Err(), c.Command())
		}
	}
	t.Logf("%d seeds, %d steps", n, steps)
}

// TestRealRunsCanBeToldAgain runs a seed twice: goroutines, clocks and the order of maps have
// no say in what the real upgrader does.
func TestRealRunsCanBeToldAgain(t *testing.T) {
	c := Case{Seed: 4, Troubled: Troubled, Bound: Bound, Real: true}
	first := c.run(newDice(c.Seed, 0), true, c.Troubled, true)
	again := c.run(newDice(c.Seed, 0), true, c.Troubled, true)
	if len(first.story) < 100 {
		t.Errorf("a story of %d lines", len(first.story))
	}
	if diff := cmp.Diff(first.story, again.story); diff != "" {
		t.Errorf("(-first +again):\n%s", diff)
	}
}

// TestServerSideApplyRemovesWhatIsLeftOut takes the rule of omission for what it is: the
// danger of giving a partition up by not naming it.
func TestServerSideApplyRemovesWhatIsLeftOut(t *testing.T) {
	spec := func(kv ...any) map[string]any {
		m := map[string]any{}
		for pair := range slices.Chunk(kv, 2) {
			m[pair[0].(string)] = pair[1]
		}
		return map[string]any{"spec": m}
	}
	for _, tt := range []struct {
		name               string
		live, first, other map[string]any
		second, want       map[string]any
	}{
		{"what the manager does not name any more is removed", spec("a", 1.0), spec("p", 5.0), nil, spec("b", 2.0), spec("a", 1.0, "b", 2.0)},
		{"what somebody else had set as well stays", spec("p", 5.0), spec("p", 5.0, "b", 2.0), nil, spec("b", 2.0), spec("p", 5.0, "b", 2.0)},
		{"what somebody else has changed since stays", spec(), spec("p", 5.0, "b", 2.0), spec("p", 6.0), spec("b", 2.0), spec("p", 6.0, "b", 2.0)},
		{"what it took from somebody else by force is its own", spec("p", 1.0), spec("p", 5.0, "b", 2.0), nil, spec("b", 2.0), spec("b", 2.0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := serverSideApply(tt.live, tt.first, owned{})
			if tt.other != nil {
				serverSideApply(tt.live, tt.other, owned{})
			}
			serverSideApply(tt.live, tt.second, ownedFrom(o.String()))
			if diff := cmp.Diff(tt.want, tt.live); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestTheMirrorIsFaithful compares, at each decision, what the real upgrader sees with what
// the mirror sees that most seeds run with.
func TestTheMirrorIsFaithful(t *testing.T) {
	const n = 8
	steps := 0
	for seed := uint64(101); seed <= 100+n; seed++ {
		s := Case{Seed: seed, Troubled: Troubled, Bound: Bound, Real: true, Compare: true}.Run()
		if steps += s.Steps(); s.Err() != nil {
			t.Fatalf("seed %d: %v", seed, s.Err())
		}
	}
	t.Logf("%d seeds, %d steps", n, steps)
}
