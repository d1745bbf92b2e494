package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/e2e/harness"
)

// event is a trouble and its moment.
type event struct {
	trouble trouble
	// step of the upgrade at which it comes; with none, it comes after a time.
	step  *harness.Step
	after time.Duration
	// lasts is how long, for those that last.
	lasts time.Duration
	// chance decides what is known only when it comes, as which of the pods that are there.
	chance uint64
}

func (e event) String() string {
	when := fmt.Sprintf("after %s", e.after.Round(100*time.Millisecond))
	if e.step != nil {
		when = fmt.Sprintf("at the step %q", e.step.Name)
	}
	text := fmt.Sprintf("%s %s", e.trouble.name, when)
	if e.lasts > 0 {
		text += fmt.Sprintf(", for %s", e.lasts.Round(100*time.Millisecond))
	}
	return text
}

// round is some upgrades on one stage, with what happens during each.
type round struct {
	number   int
	upgrades [][]event
}

const (
	upgradesPerRound = 2
	eventsPerUpgrade = 6
)

// places are all that events come at: every step of an upgrade and the moment between the
// two halves of a release.
func places() []harness.Step { return slices.Concat(harness.Steps, []harness.Step{harness.Pinned}) }

// schedule is decided by its seed alone, and its beginning does not depend on its length.
// Troubles and steps are drawn like cards, none again before all were: a schedule of some
// length has them all.
func schedule(seed uint64, rounds int) []round {
	random := rand.New(rand.NewPCG(seed, seed))
	var deck []trouble
	for _, k := range troubles() {
		for range k.weight {
			deck = append(deck, k)
		}
	}
	troubles, steps := cards(random, deck), cards(random, places())
	out := make([]round, rounds)
	for i := range out {
		out[i].number = i
		for range upgradesPerRound {
			var events []event
			for range eventsPerUpgrade {
				events = append(events, draw(random, troubles, steps))
			}
			out[i].upgrades = append(out[i].upgrades, events)
		}
	}
	return out
}

func draw(random *rand.Rand, troubles func() trouble, steps func() harness.Step) event {
	e := event{trouble: troubles(), chance: random.Uint64()}
	if random.IntN(3) > 0 {
		s := steps()
		e.step = &s
	} else {
		e.after = time.Duration(random.Int64N(int64(6 * time.Second)))
	}
	if shortest, longest := e.trouble.shortest, e.trouble.longest; longest > 0 {
		e.lasts = shortest + time.Duration(random.Int64N(int64(longest-shortest)))
	}
	return e
}

// cards draws from a deck that is shuffled anew when it is used up.
func cards[T any](random *rand.Rand, deck []T) func() T {
	var left []T
	return func() T {
		if len(left) == 0 {
			left = slices.Clone(deck)
			random.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		card := left[0]
		left = left[1:]
		return card
	}
}

// told is a schedule for people, and for comparing two.
func told(rounds []round) string {
	var b strings.Builder
	for _, r := range rounds {
		for i, u := range r.upgrades {
			for _, e := range u {
				fmt.Fprintf(&b, "round %d, upgrade %d: %s (%x)\n", r.number, i, e, e.chance)
			}
		}
	}
	return b.String()
}

func TestTheScheduleIsDecidedByItsSeed(t *testing.T) {
	five := schedule(7, 5)
	if diff := cmp.Diff(told(five), told(schedule(7, 5))); diff != "" {
		t.Errorf("the same seed, twice:\n%s", diff)
	}
	if diff := cmp.Diff(told(five), told(schedule(7, 50)[:5])); diff != "" {
		t.Errorf("a longer one begins differently:\n%s", diff)
	}
	if told(five) == told(schedule(8, 5)) {
		t.Error("another seed gives the same")
	}
}

func TestTheSliceHasEveryTroubleAndEveryStep(t *testing.T) {
	missing := map[string]bool{}
	for _, k := range troubles() {
		missing[k.name] = true
	}
	for _, s := range places() {
		missing[s.Name] = true
	}
	for _, r := range schedule(sliceSeed, sliceRounds) {
		for _, e := range slices.Concat(r.upgrades...) {
			delete(missing, e.trouble.name)
			if e.step != nil {
				delete(missing, e.step.Name)
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("not among them: %v; change the number of rounds, or the seed", missing)
	}
}
