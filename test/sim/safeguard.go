package sim

import (
	"fmt"
	"slices"
)

// Safeguard is a part of the protocol that a run can be without, to see that the promises
// depend on it.
type Safeguard int

// The safeguards.
const (
	Nothing      Safeguard = iota
	Precondition           // uid and resourceVersion in the writes of pods
	PinCheck               // the pin before the hold is released
	Hold                   // the hold in Kruise's hook
	Ban                    // no duty for a leased name
)

var safeguards = []string{"nothing", "precondition", "pin", "hold", "ban"}

func (g Safeguard) String() string { return safeguards[g] }

// MarshalText is the safeguard's name.
func (g Safeguard) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText takes a safeguard's name.
func (g *Safeguard) UnmarshalText(text []byte) error {
	i := slices.Index(safeguards, string(text))
	if i < 0 {
		return fmt.Errorf("there is no safeguard %q: they are %v", text, safeguards)
	}
	*g = Safeguard(i)
	return nil
}
