package source

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

// etcdAnswer is what the etcd at a member's own address says.
type etcdAnswer struct {
	// err says why there is none.
	err error
	// cluster and id are those of the one that answers, leader whom it follows in the raft term;
	// 0: nobody.
	cluster, id, leader, term uint64
	// committed and applied are its raft indexes.
	committed, applied uint64
	learner            bool
	// troubles are its errors and the cluster's alarms, in etcd's words.
	troubles []string
	// list is the membership as it knows it, by id.
	list map[uint64]etcdEntry
}

// etcdEntry is one line of etcd's list of members.
type etcdEntry struct {
	name    string
	urls    []string
	learner bool
}

// judgeEtcd says of each member what may be believed when these are the answers.
//
// Who leads is certain only if nobody who answers says otherwise, and if a majority of the
// voters says so in one term, the leader itself among them. As long as it is not, nobody is
// idle: whoever is elected next may be anybody.
func judgeEtcd(members map[string]application.Member, answers map[string]etcdAnswer, maxLag uint64) map[string]roster.Sight {
	own := map[string]etcdAnswer{}
	sights := make(map[string]roster.Sight, len(members))
	for _, name := range slices.Sorted(maps.Keys(members)) {
		a := answers[name]
		if why := a.stranger(members[name]); why != "" {
			sights[name] = roster.Sight{Duty: roster.Unknown, Why: why}
			continue
		}
		own[name] = a
	}
	leader, why := etcdLeader(own)
	for name, a := range own {
		switch {
		case why != "":
			sights[name] = roster.Sight{Duty: roster.Unknown, Why: why}
		case name == leader:
			sights[name] = roster.Sight{Duty: roster.Working}
		default:
			sights[name] = a.follows(own[leader], maxLag)
		}
	}
	for name, s := range sights {
		s.Instance = members[name].Instance
		sights[name] = s
	}
	return sights
}

// stranger says why the answer is not that of the member's own etcd; empty: it is.
func (a *etcdAnswer) stranger(m application.Member) string {
	if a.err != nil {
		return "its etcd does not answer: " + a.err.Error()
	}
	e, listed := a.list[a.id]
	switch {
	case !listed:
		return fmt.Sprintf("the etcd at its address, %x, is no member of the cluster that it knows", a.id)
	case e.name != m.Name && !slices.ContainsFunc(e.urls, func(u string) bool { return leadsTo(u, m) }):
		return fmt.Sprintf("at its address answers the etcd member %q, whose name and URLs are not the pod's", e.name)
	}
	return ""
}

// leadsTo says whether a URL is that of the member: by its IP address, or by a host name that
// begins with the pod's.
func leadsTo(u string, m application.Member) bool {
	parsed, err := url.Parse(u)
	if err != nil {
		return false
	}
	host := parsed.Hostname()
	if ip := net.ParseIP(host); ip != nil {
		return ip.Equal(net.ParseIP(m.Address))
	}
	first, _, _ := strings.Cut(host, ".")
	return first == m.Name
}

// etcdLeader finds the leader among those that answered, or says why nobody is one for certain.
func etcdLeader(answers map[string]etcdAnswer) (leader, why string) {
	names := slices.Sorted(maps.Keys(answers))
	ids, first := map[uint64]string{}, ""
	for _, name := range names {
		a := answers[name]
		if twin, taken := ids[a.id]; taken {
			return "", fmt.Sprintf("%s and %s answer as the same etcd member %x", twin, name, a.id)
		}
		ids[a.id] = name
		if a.leader != 0 && first == "" {
			first = name
		}
	}
	if first == "" {
		return "", "no etcd that answers follows a leader"
	}
	said := answers[first]
	for _, name := range names {
		if a := answers[name]; a.contradicts(said) {
			return "", fmt.Sprintf("%s says %s, %s says %s", first, said.says(), name, a.says())
		}
	}
	leader, answered := ids[said.leader]
	if !answered {
		return "", fmt.Sprintf("the etcd leader %x is not among the members that answer", said.leader)
	}
	return leader, unconfirmed(leader, ids, answers)
}

// unconfirmed says why no majority of the voters that the leader knows follows it; empty: one does.
func unconfirmed(leader string, ids map[uint64]string, answers map[string]etcdAnswer) string {
	voters, followers := 0, 0
	for id, e := range answers[leader].list {
		if e.learner {
			continue
		}
		voters++
		if a, ok := answers[ids[id]]; ok && a.leader == answers[leader].id {
			followers++
		}
	}
	if followers > voters/2 {
		return ""
	}
	return fmt.Sprintf("%d of %d voters confirm that %s leads, which is no majority", followers, voters, leader)
}

// contradicts says whether two answers cannot both be of one settled cluster. One that follows
// nobody contradicts if it has heard of a later term: then there is an election.
func (a *etcdAnswer) contradicts(said etcdAnswer) bool {
	if a.leader == 0 {
		return a.cluster != said.cluster || a.term > said.term
	}
	return a.cluster != said.cluster || a.leader != said.leader || a.term != said.term
}

func (a *etcdAnswer) says() string {
	return fmt.Sprintf("leader %x in term %d of cluster %x", a.leader, a.term, a.cluster)
}

// follows says of one that does not lead whether it is idle.
func (a *etcdAnswer) follows(leader etcdAnswer, maxLag uint64) roster.Sight {
	if why := a.unfit(leader, maxLag); why != "" {
		return roster.Sight{Duty: roster.Unknown, Why: why}
	}
	return roster.Sight{Duty: roster.Idle}
}

// unfit says why a follower is not healthy, and could not take over; empty: it could.
func (a *etcdAnswer) unfit(leader etcdAnswer, maxLag uint64) string {
	e, listed := leader.list[a.id]
	switch {
	case a.leader == 0:
		return "its etcd follows no leader"
	case !listed:
		return fmt.Sprintf("the leader does not know its etcd member %x", a.id)
	case a.learner || e.learner:
		return "its etcd is a learner and does not vote"
	case len(a.troubles) > 0:
		return "its etcd has errors: " + strings.Join(a.troubles, "; ")
	case leader.committed > a.applied && leader.committed-a.applied > maxLag:
		return fmt.Sprintf("its etcd is more than %d entries behind the leader", maxLag)
	}
	return ""
}
