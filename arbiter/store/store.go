// Package store keeps the record of a group: in the status of its Roster, in a file, or,
// for tests, in memory. Every store saves by compare-and-swap, and what it has saved is
// durable when Save returns.
package store

import (
	"context"
	"errors"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
)

// ErrConflict: somebody else has saved since that version was loaded. Nothing was saved;
// load again. After any other error of Save the outcome is unknown: load again, too.
var ErrConflict = errors.New("the record has changed since it was loaded")

// ErrNotFound: the group is gone.
var ErrNotFound = errors.New("the group's record is gone")

// MaxForceReleases is how many administrative releases a record remembers.
const MaxForceReleases = 16

// Record is everything about a group that must outlive the process.
type Record struct {
	// Lost is set by Load alone: the record was begun once and is not there any more.
	Lost bool
	// Frozen: the record was lost and is being recovered.
	Frozen bool
	// Leases has an empty Epoch when the record has not been begun.
	Leases lease.Table
	Roster roster.Record
	// Promised is for how long at most a member may rely on an answer that it had when this
	// was recorded, in whole seconds; 0 in the records of versions that did not tell.
	Promised time.Duration
	// ForceReleases, newest first, at most MaxForceReleases.
	ForceReleases []ForceRelease
	// Summary is for people; nothing reads it back.
	Summary Summary
}

// Clone returns a record that shares no map or slice with r that a change could touch.
func (r Record) Clone() Record {
	r.Leases, r.Roster = r.Leases.Clone(), r.Roster.Clone()
	r.ForceReleases = append([]ForceRelease(nil), r.ForceReleases...)
	return r
}

// ForceRelease tells of an administrator's release.
type ForceRelease struct {
	Time    time.Time
	By      string
	Replica string
	LeaseID string
	Holder  string
	Reason  string
}

// Summary is what the record shows to people.
type Summary struct {
	// ObservedGeneration of the configuration that is in effect.
	ObservedGeneration int64
	// Working, Leased and Quarantined are names, separated by commas.
	Working, Leased, Quarantined string
	Serving, Floor               int
	// Conditions by type; at most one of each.
	Conditions [3]Condition
}

// Condition is one statement; an empty Type is none. An absent one is removed.
type Condition struct {
	Type    string
	True    bool
	Reason  string
	Message string
}

// Version names what was loaded. Only the store that gave it understands it.
type Version string

// Store keeps one record.
type Store interface {
	// Load returns the record and its version. A record that was never begun has an
	// empty epoch.
	//
	// Errors: ErrNotFound; anything else: try again.
	Load(ctx context.Context) (Record, Version, error)
	// Save replaces the record that was loaded as v.
	//
	// Errors: ErrConflict, ErrNotFound; anything else leaves the outcome unknown.
	Save(ctx context.Context, r Record, v Version) (Version, error)
}
