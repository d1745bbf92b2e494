package v1alpha1

// Labels, annotations and conditions on pods and Advanced StatefulSets. Each has one
// writer, named here.
const (
	// HoldLabel "true" keeps Kruise from updating the pod in place. Writer: upgrader.
	HoldLabel = "offduty.dev/hold"
	// GrantLabel "true" puts the pod first in Kruise's update order. Writer: upgrader.
	GrantLabel = "offduty.dev/grant"
	// DefaultWorkingLabel is "true" or "false". Writer: upgrader.
	DefaultWorkingLabel = "working"
	// DutyLabel is "working" or "idle", for applications that read their duty through
	// the downward API. Writer: arbiter.
	DutyLabel = "offduty.dev/duty"

	// ArmedAnnotation on an Advanced StatefulSet keeps what arming replaced, as JSON.
	// Writer: upgrader.
	ArmedAnnotation = "offduty.dev/armed"
	// LeftAnnotation is on an Advanced StatefulSet for a moment while a plan that has not
	// taken it over goes. Writer: upgrader.
	LeftAnnotation = "offduty.dev/left"
	// LeaseAnnotation on a pod is the lease under which it is being upgraded:
	// "<lease id>/<token>". Writer: upgrader.
	LeaseAnnotation = "offduty.dev/lease"
	// VerifiedAnnotation on a pod is the controller revision that was verified on it.
	// Writer: upgrader.
	VerifiedAnnotation = "offduty.dev/verified"
	// FencedAnnotation on a pod is a token that only grows: a lease with this token or a
	// lower one is void for the pod. Written by the arbiter when a lease has run out or was
	// ended by force, or when its record was lost, and by the upgrader when it gives a replica
	// back.
	FencedAnnotation = "offduty.dev/fenced"
	// InitializedAnnotation on a Roster tells that its status has been begun: a status
	// without an epoch was lost. Writer: arbiter.
	InitializedAnnotation = "offduty.dev/initialized"

	// InServiceGate is the default readiness gate. Writer: upgrader.
	InServiceGate = "offduty.dev/in-service"

	// PlanFinalizer on an UpgradePlan keeps it until its targets are given back.
	PlanFinalizer = "offduty.dev/targets"
)
