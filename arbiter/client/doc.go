// Package client talks to an arbiter: for an upgrader (Client, Watcher, Renewer) and for
// applications that let the arbiter decide who works (Attendant).
//
// Nothing of the wire is visible in its types. What a newer arbiter says and this
// package does not understand becomes DutyUnknown, PhaseUnknown or ReasonUnknown, which
// callers treat as "working", "not usable" and "no".
//
// One Client holds one connection, which any number of groups and goroutines share.
package client
