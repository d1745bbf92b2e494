package sim

import (
	"slices"

	"offduty.dev/upgrader/plan"
)

// meddle is a user who changes labels and annotations of a pod, as the admission policies let
// everybody who may write pods (config/admission/holds_and_grants.yaml: nobody takes a hold off,
// and nobody puts a grant on; whether what is there is true, no policy can know).
func (s *Sim) meddle() (did bool) {
	kinds := []struct {
		what string
		do   func(*Pod)
	}{
		{"turns the working label round", func(p *Pod) { p.Working = map[string]string{"true": "false"}[p.Working] }},
		{"takes the verification off", func(p *Pod) { p.Verified = "" }},
		{"writes that it was verified", func(p *Pod) { p.Verified = p.Revision }},
		{"writes that it was verified at what comes next", func(p *Pod) { set := s.api.sets[p.Set]; p.Verified = set.revision() }},
		{"takes the grant off", func(p *Pod) { p.Grant = false }},
		{"takes the note of the lease off", func(p *Pod) { p.Note = plan.Note{} }},
		{"puts the hold on", func(p *Pod) { p.Hold = true }},
	}
	s.somePod(func(p Pod) {
		if set := s.api.sets[p.Set]; !s.cfg.Meddling || !s.armed(&set) {
			return
		}
		// Who forges the verification of a leased replica and hides its lease deceives us.
		if _, leased := s.arb.table.Leases[p.Name]; leased && (p.Note.ID == "" || s.forged[p.UID] != "") {
			return
		}
		k := kinds[s.rnd.IntN(len(kinds))]
		was := s.api.pods[p.Name]
		s.change(p.Name, "user", k.what, k.do)
		is := s.api.pods[p.Name]
		if did = is != was; did && is.Verified != was.Verified && is.Verified != "" {
			s.forged[p.UID] = is.Verified
		}
	})
	return did
}

// isKnown says whether the arbiter knows a revision, or cannot.
func (s *Sim) isKnown(revision string) bool { return s.arb.proven[revision] || s.isForged(revision) }

// isForged says whether somebody has written of any pod that it was verified at a revision. It
// then counts as upgraded, and gets no duty, as the arbiter is told by holders of leases alone.
func (s *Sim) isForged(revision string) bool {
	for uid, rev := range s.forged {
		if p := s.api.pods; rev == revision && slices.ContainsFunc(names(p), func(n string) bool { return p[n].UID == uid }) {
			return true
		}
	}
	return false
}
