package store

import (
	"encoding/json"
	"testing"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/lease"
)

// FuzzDecodeFile: a state file is refused or understood, and what was understood can be
// written and read again.
func FuzzDecodeFile(f *testing.F) {
	f.Add([]byte(`{"Format":1,"Groups":{"a/b":{"Version":1,"Record":{"Leases":{"Epoch":"e","Leases":{"web-0":{"ID":"e-1","Replica":"web-0"}}}}}}}`))
	f.Add([]byte(`{"Format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		groups, err := decodeFile(data)
		if err != nil {
			return
		}
		out, err := json.Marshal(fileContent{Format: fileFormat, Groups: groups})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeFile(out); err != nil {
			t.Fatalf("%s cannot be read again: %v", out, err)
		}
	})
}

// FuzzFromStatus: whatever is in a status, no lease of it ends by time unless it says so,
// and tokens go on above all of its tokens.
func FuzzFromStatus(f *testing.F) {
	f.Add([]byte(`{"epoch":"e","leases":[{"replica":"web-0","id":"e-1","token":5,"phase":"Hm"}],"members":[{"name":"web-0","duty":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s v1alpha1.RosterStatus
		if json.Unmarshal(data, &s) != nil {
			return
		}
		r := fromStatus(&s)
		for _, l := range s.Leases {
			got := r.Leases.Leases[l.Replica]
			if got.Token > r.Leases.LastToken {
				t.Errorf("token %d is above the last, %d", got.Token, r.Leases.LastToken)
			}
			if got.ID == l.ID && got.Phase == lease.Leased && l.Phase != string(lease.Leased) {
				t.Errorf("phase %q was read as %q", l.Phase, got.Phase)
			}
		}
	})
}
