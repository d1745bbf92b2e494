package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestASetThatIsNotThePlansIsBarredBeforeItIsForgotten: of a set that is another plan's, as far
// as the cache shows, nothing is read but its version.
func TestASetThatIsNotThePlansIsBarredBeforeItIsForgotten(t *testing.T) {
	w := World{Arbiter: Arbiter{Adopted: true}, Term: 3, Targets: []Target{{Name: "web", ResourceVersion: "7", Listed: true, Leaving: true}}}
	d := Next(&w, time.Unix(0, 0))
	if diff := cmp.Diff([]Action{Bar{Target: "web", ResourceVersion: "7"}}, d.Actions); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
