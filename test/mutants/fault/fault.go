// Package fault says which deliberate fault is switched on. Only the copies of our sources
// that test/mutants weaves ask it.
package fault

// On is the number of the fault that is switched on; 0: none.
var On int

// Reached counts how often the faulty code ran.
var Reached int

// Is says whether fault n is switched on.
func Is(n int) bool {
	if On != n {
		return false
	}
	Reached++
	return true
}
