package client

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestALedgerNeverCountsFromTooLate(t *testing.T) {
	// A positive number is a request sent at that second, a negative one an answer with
	// that generation.
	tests := []struct {
		name   string
		events []int
		want   []int // for each answer, the second from which it counts
		behind bool
	}{
		{"each answer counts from its request", []int{1, -1, 2, -1, 3, -1}, []int{1, 2, 3}, false},
		{"a change of duty counts from the last answered request", []int{1, -1, -2}, []int{1, 1}, false},
		{
			"a change of duty that crosses a request counts from the one before it",
			[]int{1, -1, 5, -2, -2},
			[]int{1, 1, 5},
			false,
		},
		{
			"an answer that brings the change itself leaves its request open",
			[]int{1, -1, 5, -2, 6, -2},
			[]int{1, 1, 5},
			false,
		},
		{"two open requests are too many", []int{1, -1, 5, -2, 6}, []int{1, 1}, true},
		{"an arbiter that speaks unasked permits nothing", []int{-1}, []int{0}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l ledger
			var got []int
			for _, e := range tt.events {
				if e > 0 {
					l.add(time.Time{}.Add(time.Duration(e) * time.Second))
					continue
				}
				got = append(got, int(l.attribute(int64(-e)).Sub(time.Time{}).Seconds()))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("counts from (-want +got):\n%s", diff)
			}
			if l.behind() != tt.behind {
				t.Errorf("behind %t, want %t", l.behind(), tt.behind)
			}
		})
	}
}
