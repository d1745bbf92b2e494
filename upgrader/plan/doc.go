// Package plan decides the next step of an upgrade. It is pure: no I/O, no clock, no
// client, standard library only. What it needs to know is in World, what it wants done
// is in Decision; package observe builds the one and package apply carries out the other.
//
// The planner keeps no state. Each replica's Step is derived from its pod, its lease and
// its set, so that a new leader of the upgrader goes on where the old one stopped.
package plan
