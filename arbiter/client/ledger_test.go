package client

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const refused = -1

// replay enters events and returns, for each answer, the second from which it counts.
func replay(events []int) (got []int, l ledger) {
	for _, e := range events {
		if e > 0 {
			l.add(time.Time{}.Add(time.Duration(e) * time.Second))
			continue
		}
		from, err := l.from(int64(-e))
		if err != nil {
			got = append(got, refused)
			continue
		}
		got = append(got, int(from.Sub(time.Time{}).Seconds()))
	}
	return got, l
}

func TestAnAnswerCountsFromTheRequestItNames(t *testing.T) {
	// events: a positive number is a request sent at that second, another one an answer
	// that names the request of minus that sequence.
	tests := []struct {
		name   string
		events []int
		want   []int // for each answer, the second from which it counts, or refused
		behind bool
	}{
		{"each answer counts from its request", []int{1, -1, 5, -2, 9, -3}, []int{1, 5, 9}, false},
		{"a change of duty counts from the last answered request", []int{1, -1, -1}, []int{1, 1}, false},
		{
			"a change of duty that crosses a request counts from the one before it",
			[]int{1, -1, 5, -1, -2, -2},
			[]int{1, 1, 5, 5},
			false,
		},
		{"an answer may name the later of two requests", []int{1, 5, -2}, []int{5}, false},
		{"a request that is not answered itself is not missed", []int{1, 5, -2, 9}, []int{5}, false},
		{"one open request is as it should be", []int{1, -1, 5}, []int{1}, false},
		{"two open requests are too many", []int{1, -1, 5, 9}, []int{1}, true},
		{"changes of duty answer nothing", []int{1, -1, 5, 9, -1}, []int{1, 1}, true},
		{"a request that was never sent is refused", []int{1, -2, -1}, []int{refused, 1}, false},
		{"so is one before the last that was named", []int{1, 5, -2, -1}, []int{5, refused}, false},
		{"and none at all", []int{1, 0}, []int{refused}, false},
		{"nothing can be said before the first request", []int{-1, 0}, []int{refused, refused}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, l := replay(tt.events)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("counts from (-want +got):\n%s", diff)
			}
			if l.behind() != tt.behind {
				t.Errorf("behind %t, want %t", l.behind(), tt.behind)
			}
		})
	}
}
