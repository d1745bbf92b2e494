// Package e2e applies what config/ installs to a real control plane and checks it from
// outside.
package e2e

import (
	"testing"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }
