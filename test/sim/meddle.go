package sim

import "offduty.dev/upgrader/plan"

// meddle is a user who changes labels and annotations of a pod. Where the admission policies are
// installed nobody takes a hold off or puts a grant on (config/admission/holds_and_grants.yaml),
// and annotations are the upgrader's (notes.yaml): the simulation has the first rule and does
// without the second, but for the fence and the note, which nobody forges.
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
		k := kinds[s.rnd.IntN(len(kinds))]
		s.change(p.Name, "user", k.what, k.do)
		did = s.api.pods[p.Name] != p
	})
	return did
}
