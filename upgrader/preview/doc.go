// Package preview says what a plan would do: it gives the live objects to the real planner,
// and plays its decisions forward against a simple model in which every call succeeds, every
// pod becomes well, and time costs nothing. Nothing is written.
//
// What it cannot know it does not guess: who will be on duty later, when nobody is asked to
// move duty, and anything of an arbiter whose Roster cannot be seen.
package preview
