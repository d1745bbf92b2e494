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

// Named is a roster's duty by name: spec.assigned in JSON, which is YAML as well.
func Named(ordinals ...int) string {
	names := make([]string, 0, len(ordinals))
	for _, o := range ordinals {
		names = append(names, fmt.Sprintf("%q", fmt.Sprintf("sample-%d", o)))
	}
	return fmt.Sprintf(`{"working": [%s], "lifetimeSeconds": 3}`, strings.Join(names, ", "))
}

// Slots is a roster's duty by number.
func Slots(n int) string { return fmt.Sprintf(`{"workers": %d, "lifetimeSeconds": 3}`, n) }

// RosterManifest is the group of the worked example: floor 3, two leased at a time.
func RosterManifest(assigned string) string {
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
    minServing: 3
  maxLeased: 2
  assigned: %s
`, assigned)
}

// PlanManifest is an UpgradePlan for the container main of the set; strategy is YAML in
// flow style, e.g. {handover: Wait, maxUnavailable: 2}.
func PlanManifest(image, strategy string) string {
	return fmt.Sprintf(`apiVersion: offduty.dev/v1alpha1
kind: UpgradePlan
metadata:
  name: sample
spec:
  targets:
  - name: sample
    images:
      main: %s
  arbiter:
    group: sample
  strategy: %s
`, image, strategy)
}
