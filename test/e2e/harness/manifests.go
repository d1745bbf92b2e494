package harness

import (
	"fmt"
	"strings"
)

// The images of the worked example.
const (
	OldImage = "alpine:3.18.2"
	NewImage = "alpine:3.18.0"
)

// SetManifest is the Advanced StatefulSet of the worked example: five replicas, of which
// the partition would leave three. gates are further readiness gates.
func SetManifest(gates ...string) string {
	var more strings.Builder
	for _, g := range gates {
		fmt.Fprintf(&more, "\n      - conditionType: %s", g)
	}
	return fmt.Sprintf(`apiVersion: apps.kruise.io/v1beta1
kind: StatefulSet
metadata:
  name: sample
spec:
  replicas: 5
  serviceName: sample
  podManagementPolicy: Parallel
  selector:
    matchLabels:
      app: sample
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      podUpdatePolicy: InPlaceIfPossible
      partition: 3
      unorderedUpdate:
        priorityStrategy:
          weightPriority:
          - weight: 30
            matchSelector:
              matchLabels:
                working: "true"
          - weight: 50
            matchSelector:
              matchLabels:
                working: "false"
  template:
    metadata:
      labels:
        app: sample
        working: "false"
    spec:
      readinessGates:
      - conditionType: InPlaceUpdateReady%s
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: %s
        command: [sleep, infinity]
`, more.String(), OldImage)
}

// AnotherSet is the set of the worked example under another name and with another number of
// replicas, beside others in one group. It leaves out what is the upgrader's.
func AnotherSet(name string, replicas int, image string) string {
	m := SetManifest()
	from, to := strings.Index(m, "      podUpdatePolicy:"), strings.Index(m, "  template:\n    metadata:\n      labels:\n        app:")
	m = strings.Replace(m[:from]+m[to:], "    rollingUpdate:\n", "", 1)
	return strings.NewReplacer(
		"name: sample\n", "name: "+name+"\n",
		"serviceName: sample\n", "serviceName: "+name+"\n",
		"replicas: 5", fmt.Sprintf("replicas: %d", replicas),
		"\n      app: sample\n", "\n      app: sample\n      set: "+name+"\n",
		"\n        app: sample\n", "\n        app: sample\n        set: "+name+"\n",
		OldImage, image,
	).Replace(m)
}

// Workers is a roster's duty by the names of pods; see Named.
func Workers(pods ...string) string {
	names := make([]string, 0, len(pods))
	for _, p := range pods {
		names = append(names, fmt.Sprintf("%q", p))
	}
	return fmt.Sprintf(`{"working": [%s], "lifetimeSeconds": 3}`, strings.Join(names, ", "))
}

// Named is a roster's duty by name: spec.assigned in JSON, which is YAML as well.
func Named(ordinals ...int) string {
	names := make([]string, 0, len(ordinals))
	for _, o := range ordinals {
		names = append(names, fmt.Sprintf("sample-%d", o))
	}
	return Workers(names...)
}

// Slots is a roster's duty by number.
func Slots(n int) string { return fmt.Sprintf(`{"workers": %d, "lifetimeSeconds": 3}`, n) }

// RosterManifest is the group of the worked example: floor 3, two leased at a time.
func RosterManifest(assigned string) string { return RosterWith(assigned, 3, 2) }

// RosterWith is that group with another floor, and with another number that may be leased.
func RosterWith(assigned string, floor, leased int) string {
	return rosterManifest("assigned: "+assigned, floor, leased)
}

// ObservedManifest is the group of the worked example in which the application decides who
// works; observed is YAML in flow style.
func ObservedManifest(observed string) string { return rosterManifest("observed: "+observed, 3, 2) }

func rosterManifest(duty string, floor, leased int) string {
	return fmt.Sprintf(`apiVersion: offduty.dev/v1alpha1
kind: Roster
metadata:
  name: sample
spec:
  members:
    selector:
      matchLabels:
        app: sample
  floor:
    minServing: %d
  maxLeased: %d
  %s
`, floor, leased, duty)
}

// PlanManifest is an UpgradePlan for the container main of the set; strategy is YAML in
// flow style, e.g. {handover: Wait, maxUnavailable: 2}.
func PlanManifest(image, strategy string) string {
	return PlanOf(strategy, Target(Group, image))
}

// Target is an entry of spec.targets; without an image the plan follows the set's template.
func Target(set, image string) string {
	t := "  - name: " + set
	if image != "" {
		t += "\n    images:\n      main: " + image
	}
	return t
}

// PlanOf is an UpgradePlan for several targets.
func PlanOf(strategy string, targets ...string) string {
	return fmt.Sprintf(`apiVersion: offduty.dev/v1alpha1
kind: UpgradePlan
metadata:
  name: sample
spec:
  targets:
%s
  arbiter:
    group: sample
  strategy: %s
`, strings.Join(targets, "\n"), strategy)
}
