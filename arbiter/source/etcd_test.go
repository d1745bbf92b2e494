package source

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

// etcds are the answers of a cluster of five, db-0 to db-4 with the ids 1 to 5. db-2 leads.
type etcds map[string]etcdAnswer

func fiveEtcds() etcds {
	list := map[uint64]etcdEntry{}
	for i := range uint64(5) {
		name := fmt.Sprintf("db-%d", i)
		list[i+1] = etcdEntry{name: name, urls: []string{fmt.Sprintf("https://%s.db.test.svc:2380", name)}}
	}
	out := etcds{}
	for i := range uint64(5) {
		out[fmt.Sprintf("db-%d", i)] = etcdAnswer{cluster: 9, id: i + 1, leader: 3, term: 7, committed: 5000, applied: 5000, list: list}
	}
	return out
}

// set changes the answers of some.
func (e etcds) set(change func(*etcdAnswer), names ...string) etcds {
	for _, name := range names {
		a := e[name]
		change(&a)
		e[name] = a
	}
	return e
}

// names lets all members know of other members.
func (e etcds) names(change func(id uint64, entry etcdEntry) etcdEntry) etcds {
	list := map[uint64]etcdEntry{}
	for id, entry := range e["db-0"].list {
		list[id] = change(id, entry)
	}
	return e.set(func(a *etcdAnswer) { a.list = list }, "db-0", "db-1", "db-2", "db-3", "db-4")
}

func silent(a *etcdAnswer) { *a = etcdAnswer{err: errors.New("connection refused (Unavailable)")} }

func leading(leader, term uint64) func(*etcdAnswer) {
	return func(a *etcdAnswer) { a.leader, a.term = leader, term }
}

func fiveMembers() map[string]application.Member {
	out := map[string]application.Member{}
	for i := range 5 {
		name := fmt.Sprintf("db-%d", i)
		out[name] = application.Member{Name: name, Instance: "u-" + name, Address: fmt.Sprintf("10.0.0.%d", i)}
	}
	return out
}

// five is what is expected of db-0 to db-4.
func five(duties ...string) map[string]string {
	out := map[string]string{}
	for i, d := range duties {
		out[fmt.Sprintf("db-%d", i)] = d
	}
	return out
}

func TestWhoLeadsAnEtcdWorksAndWhoFollowsItInHealthIsIdle(t *testing.T) {
	const w, i = "Working", "Idle"
	const mute = "its etcd does not answer: connection refused (Unavailable)"
	everybody := func(why string) map[string]string { return five(why, why, why, why, why) }
	for name, tt := range map[string]struct {
		answers etcds
		want    map[string]string
	}{
		"all are well": {fiveEtcds(), five(i, i, w, i, i)},
		"two are down: what they do is not known, a majority still confirms the leader": {
			fiveEtcds().set(silent, "db-0", "db-4"), five(mute, i, w, i, mute),
		},
		"three are down: no majority confirms the leader": {
			fiveEtcds().set(silent, "db-0", "db-1", "db-4"),
			five(mute, mute, "2 of 5 voters confirm that db-2 leads, which is no majority", "2 of 5 voters confirm that db-2 leads, which is no majority", mute),
		},
		"the leader does not answer": {
			fiveEtcds().set(silent, "db-2"),
			five("the etcd leader 3 is not among the members that answer", "the etcd leader 3 is not among the members that answer", mute,
				"the etcd leader 3 is not among the members that answer", "the etcd leader 3 is not among the members that answer"),
		},
		"nobody answers": {etcds{}.set(silent, "db-0", "db-1", "db-2", "db-3", "db-4"), everybody(mute)},
		"nobody leads":   {fiveEtcds().set(leading(0, 8), "db-0", "db-1", "db-2", "db-3", "db-4"), everybody("no etcd that answers follows a leader")},
		"one still follows another leader": {
			fiveEtcds().set(leading(4, 6), "db-4"),
			everybody("db-0 says leader 3 in term 7 of cluster 9, db-4 says leader 4 in term 6 of cluster 9"),
		},
		"the same leader, in two terms": {
			fiveEtcds().set(leading(3, 8), "db-1"),
			everybody("db-0 says leader 3 in term 7 of cluster 9, db-1 says leader 3 in term 8 of cluster 9"),
		},
		"one has begun an election": {
			fiveEtcds().set(leading(0, 8), "db-1"),
			everybody("db-0 says leader 3 in term 7 of cluster 9, db-1 says leader 0 in term 8 of cluster 9"),
		},
		"one has just started, and knows of no leader yet": {
			fiveEtcds().set(leading(0, 7), "db-1"), five(i, "its etcd follows no leader", w, i, i),
		},
		"one is of another cluster": {
			fiveEtcds().set(func(a *etcdAnswer) { a.cluster = 8 }, "db-3"),
			everybody("db-0 says leader 3 in term 7 of cluster 9, db-3 says leader 3 in term 7 of cluster 8"),
		},
		"one lags behind as far as it may": {
			fiveEtcds().set(func(a *etcdAnswer) { a.applied = 4900 }, "db-1"), five(i, i, w, i, i),
		},
		"one lags behind further": {
			fiveEtcds().set(func(a *etcdAnswer) { a.applied = 4899 }, "db-1"),
			five(i, "its etcd is more than 100 entries behind the leader", w, i, i),
		},
		"one was asked later than the leader": {
			fiveEtcds().set(func(a *etcdAnswer) { a.applied, a.committed = 6000, 6000 }, "db-1"), five(i, i, w, i, i),
		},
		"one is a learner": {
			fiveEtcds().set(func(a *etcdAnswer) { a.learner = true }, "db-1"), five(i, "its etcd is a learner and does not vote", w, i, i),
		},
		"an alarm is raised, which all of them tell of": {
			fiveEtcds().set(func(a *etcdAnswer) { a.troubles = []string{"memberID:4 alarm:NOSPACE"} }, "db-0", "db-1", "db-2", "db-3", "db-4"),
			five("its etcd has errors: memberID:4 alarm:NOSPACE", "its etcd has errors: memberID:4 alarm:NOSPACE", w,
				"its etcd has errors: memberID:4 alarm:NOSPACE", "its etcd has errors: memberID:4 alarm:NOSPACE"),
		},
		"the names are others, the hosts of the URLs are the pods'": {
			fiveEtcds().names(func(id uint64, e etcdEntry) etcdEntry { e.name = fmt.Sprintf("infra%d", id); return e }), five(i, i, w, i, i),
		},
		"the names are others, the addresses are the pods'": {
			fiveEtcds().names(func(id uint64, _ etcdEntry) etcdEntry {
				return etcdEntry{name: "x", urls: []string{fmt.Sprintf("http://10.0.0.%d:2379", id-1)}}
			}), five(i, i, w, i, i),
		},
		"two have each other's name and URLs": {
			fiveEtcds().set(func(a *etcdAnswer) { a.id = 5 }, "db-3").set(func(a *etcdAnswer) { a.id = 4 }, "db-4"),
			five(i, i, w, `at its address answers the etcd member "db-4", whose name and URLs are not the pod's`,
				`at its address answers the etcd member "db-3", whose name and URLs are not the pod's`),
		},
		"behind two addresses is the same member": {
			fiveEtcds().names(func(_ uint64, e etcdEntry) etcdEntry {
				e.urls = append([]string{"http://10.0.0.0:2380", "http://10.0.0.1:2380"}, e.urls...)
				return e
			}).set(func(a *etcdAnswer) { a.id = 1 }, "db-1"),
			everybody("db-0 and db-1 answer as the same etcd member 1"),
		},
		"the leader does not know one": {
			fiveEtcds().set(func(a *etcdAnswer) {
				a.list = map[uint64]etcdEntry{1: a.list[1], 2: a.list[2], 3: a.list[3], 5: a.list[5]}
			}, "db-2"),
			five(i, i, w, "the leader does not know its etcd member 4", i),
		},
		"voters that are no members of the group confirm nothing": {
			fiveEtcds().names(func(_ uint64, e etcdEntry) etcdEntry { return e }).set(func(a *etcdAnswer) {
				for id := uint64(6); id < 11; id++ {
					a.list[id] = etcdEntry{name: "elsewhere"}
				}
			}, "db-2"),
			everybody("5 of 10 voters confirm that db-2 leads, which is no majority"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, judged(t, tt.answers)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// judged gives each member's duty, or why it is not known.
func judged(t *testing.T, answers etcds) map[string]string {
	t.Helper()
	got := map[string]string{}
	for member, s := range judgeEtcd(fiveMembers(), answers, 100) {
		got[member] = string(s.Duty)
		if s.Duty == roster.Unknown {
			got[member] = s.Why
		}
		if s.Instance != "u-"+member {
			t.Errorf("%s is said to be %q", member, s.Instance)
		}
	}
	return got
}
