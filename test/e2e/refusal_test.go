package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/cluster/pki"
	"offduty.dev/test/e2e/harness"
)

// told wants a condition of the plan to have a status, a reason and all words in its message.
func told(condition, status, reason string, words ...string) func(harness.Now) error {
	return func(n harness.Now) error {
		p, err := plan(n)
		if err != nil {
			return err
		}
		c := p.Condition(condition)
		if string(c.Status) != status || c.Reason != reason {
			return fmt.Errorf("its conditions are %+v", p.Status.Conditions)
		}
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return fmt.Errorf("the message lacks %q: %s", w, c.Message)
			}
		}
		return nil
	}
}

// untouched wants the upgrader to have written neither to the set nor to the pods.
func (s *stage) untouched(before map[string]harness.Pod) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, w := range e.Writes {
		if w.Ours() && (w.Kind == "pods" || w.Kind == "statefulsets") {
			s.t.Errorf("the upgrader wrote to %s %s: %s", w.Kind, w.Name, w.Body)
		}
	}
	if diff := cmp.Diff(upgraded(), fates(before, s.now())); diff != "" {
		s.t.Errorf("the pods (-want +got):\n%s", diff)
	}
}

// secret is a Secret's manifest.
func secret(name string, data map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData:\n", name)
	for key, value := range data {
		fmt.Fprintf(&b, "  %s: |\n    %s\n", key, strings.ReplaceAll(strings.TrimSpace(value), "\n", "\n    "))
	}
	return b.String()
}

// files reads the certificates of one client of the arbiter.
func (s *stage) files(who string) map[string]string {
	s.t.Helper()
	tls := s.TLS(who)
	data := map[string]string{}
	for key, path := range map[string]string{"ca.crt": tls.CA.File, "tls.crt": tls.Cert.File, "tls.key": tls.Key.File} {
		content, err := os.ReadFile(path)
		s.must(err)
		data[key] = string(content)
	}
	return data
}

// otherCA is a certificate authority that has nothing to do with the arbiter.
func otherCA(t *testing.T) string {
	t.Helper()
	ca, err := pki.NewAuthority("another", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return string(ca.Certificate)
}

func TestBadInputIsShownAndChangesNothing(t *testing.T) {
	good := harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}")
	with := func(old, new string) func(*stage) string {
		return func(*stage) string { return strings.Replace(good, old, new, 1) }
	}
	tls := func(s *stage, name string, data map[string]string) string {
		s.apply(secret(name, data))
		return strings.Replace(good, "group: sample", "group: sample\n    address: "+s.ArbiterAddress+"\n    tls: {secretName: "+name+"}", 1)
	}
	for _, c := range []struct {
		name string
		set  string // the manifest; "": that of the worked example
		plan func(*stage) string
		want []func(harness.Now) error
	}{
		{
			name: "an arbiter that cannot be reached is named",
			plan: func(s *stage) string {
				return strings.Replace(tls(s, "good", s.files("upgrader")), s.ArbiterAddress, "127.0.0.1:1", 1)
			},
			want: []func(harness.Now) error{
				told("ArbiterReachable", "False", "ArbiterUnreachable", "127.0.0.1:1", "connection refused"),
				told("Ready", "False", "ArbiterUnreachable"),
			},
		},
		{
			name: "an arbiter whose certificate is from another authority is not trusted",
			plan: func(s *stage) string {
				data := s.files("upgrader")
				data["ca.crt"] = otherCA(s.t)
				return tls(s, "other-ca", data)
			},
			want: []func(harness.Now) error{told("ArbiterReachable", "False", "ArbiterUnreachable", "certificate signed by unknown authority")},
		},
		{
			name: "a client certificate that is not an upgrader's is denied",
			plan: func(s *stage) string { return tls(s, "attendant", s.files("attendant")) },
			want: []func(harness.Now) error{told("Stalled", "True", "ArbiterDenied", "offduty-attendant")},
		},
		{
			name: "a secret that is not there is named",
			plan: with("group: sample", "group: sample\n    tls: {secretName: absent}"),
			want: []func(harness.Now) error{told("Stalled", "True", "ArbiterConfigInvalid", "absent", "not found")},
		},
		{
			name: "a group that the arbiter does not have is named",
			plan: with("group: sample", "group: absent"),
			want: []func(harness.Now) error{told("Stalled", "True", "GroupNotFound", "absent", "create the Roster")},
		},
		{
			name: "a set that is not there is named",
			plan: with("- name: sample", "- name: absent"),
			want: []func(harness.Now) error{told("Stalled", "True", "TargetNotFound", "absent", "create it")},
		},
		{
			name: "a set with OrderedReady is not touched",
			set:  orderedReady(),
			plan: with("", ""),
			want: []func(harness.Now) error{told("Stalled", "True", "TargetNotSupported", "OrderedReady", "Parallel")},
		},
		{
			name: "a container that does not exist is named, with those that do",
			plan: with("main: ", "absent: "),
			want: []func(harness.Now) error{told("Stalled", "True", "ContainerNotFound", "absent", "main")},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			before := s.beginWith(c.set, harness.Named(0, 2, 4), 3)
			s.apply(c.plan(s))
			for _, want := range c.want {
				s.await("the plan says so", want)
			}
			s.untouched(before)
		})
	}
}

// orderedReady is the set of the worked example with the other pod management; Kruise
// then takes no priorities.
func orderedReady() string {
	m := strings.Replace(harness.SetManifest(), "podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady", 1)
	a, b := strings.Index(m, "      unorderedUpdate:"), strings.Index(m, "  template:\n    metadata:\n      labels:\n        app:")
	return m[:a] + m[b:]
}

func TestATemplateThatCannotBeUpdatedInPlace(t *testing.T) {
	const env = `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"alpine:3.18.2","command":["sleep","infinity"],"env":[{"name":"A","value":"b"}]}]}}}}`
	t.Run("is refused by Kruise while a plan has the set, and nothing changes", func(t *testing.T) {
		s := newStage(t)
		before := s.begin(harness.Slots(0), 0)
		s.apply(harness.PlanManifest(harness.OldImage, "{maxUnavailable: 2}"))
		s.await("the plan is ready", settled)
		err := s.Patch(t.Context(), "asts", harness.Group, env)
		if err == nil || !strings.Contains(err.Error(), "only image update is allowed for InPlaceOnly") {
			t.Errorf("the patch of env: %v", err)
		}
		s.check(before, upgraded(), parked)
	})
	t.Run("is shown when it is under way before a plan comes, and nothing is touched", func(t *testing.T) {
		s := newStage(t)
		before := s.begin(harness.Slots(0), 0)
		s.must(s.Patch(t.Context(), "asts", harness.Group, `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":5}}}}`))
		s.must(s.Patch(t.Context(), "asts", harness.Group, env))
		s.await("Kruise has seen the template", func(n harness.Now) error {
			if k := n.Sets[harness.Group]; k.Observed != k.Generation || k.UpdateRevision == k.CurrentRevision {
				return errors.New("it has not")
			}
			return nil
		})
		s.apply(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}"))
		s.await("the plan says so", told("Stalled", "True", "NotInPlace", "container main", "cannot be done in place"))
		s.untouched(before)
		t.Run("and when that rollout is undone, the plan goes on", func(t *testing.T) {
			s := s.on(t)
			s.must(s.Patch(t.Context(), "asts", harness.Group, strings.Replace(env, `,"env":[{"name":"A","value":"b"}]`, "", 1)))
			s.await("the plan is ready", settled)
			s.allRun(harness.NewImage)
		})
	})
}

// allRun wants every pod to have an image.
func (s *stage) allRun(image string) {
	s.t.Helper()
	for _, p := range s.now().Pods {
		if p.Image != image {
			s.t.Errorf("%s has %s", p.Name, p.Image)
		}
	}
}

func TestTwoPlansForOneSet(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(0), 0)
	s.apply(harness.PlanManifest(harness.OldImage, "{maxUnavailable: 2}"))
	s.await("the first has the set", settled)
	t.Run("the younger one says so and changes nothing", func(t *testing.T) {
		s := s.on(t)
		s.apply(strings.Replace(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}"), "name: sample\nspec:", "name: second\nspec:", 1))
		s.await("the second says so", func(n harness.Now) error {
			c := n.Plans["second"].Condition("Stalled")
			if c.Reason != "TargetTaken" || !strings.Contains(c.Message, "UpgradePlan sample") {
				return fmt.Errorf("it says %+v", c)
			}
			return nil
		})
		s.allRun(harness.OldImage)
	})
	t.Run("and gets the set when the older one has gone", func(t *testing.T) {
		s := s.on(t)
		_, err := s.Kubectl(t.Context(), "", "delete", "upgradeplan", harness.Group, "--namespace", s.Namespace)
		s.must(err)
		s.await("the second is ready", func(n harness.Now) error {
			p := n.Plans["second"]
			if !p.Settled() {
				return fmt.Errorf("it says %+v", p.Condition("Ready"))
			}
			return nil
		})
		s.allRun(harness.NewImage)
	})
}
