package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// UpgradePlan declares that the pods of its targets are upgraded in place, and only
// while they are off duty. It is a standing declaration: apply it again with another
// image and the next upgrade starts.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=uplan,categories=all
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Upgraded",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="the name of an UpgradePlan has at most 63 characters"
type UpgradePlan struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec UpgradePlanSpec `json:"spec"`

	// The default tells those who judge by kstatus (Helm, Flux) that a plan which no
	// upgrader has seen yet is not done: without any status they would take it for current.

	// +kubebuilder:default:={"observedGeneration":-1}
	Status UpgradePlanStatus `json:"status,omitempty"`
}

// UpgradePlanList is a list of UpgradePlans.
//
// +kubebuilder:object:root=true
type UpgradePlanList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []UpgradePlan `json:"items"`
}

// UpgradePlanSpec says what is upgraded, who is asked, and how carefully.
type UpgradePlanSpec struct {
	// The Advanced StatefulSets whose pods vote together.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Targets []Target `json:"targets"`

	// Who knows which replicas are idle.
	Arbiter Arbiter `json:"arbiter"`

	// +kubebuilder:default={}
	Strategy Strategy `json:"strategy,omitempty"`

	// While true no further replica is leased; what is past the point of no return is
	// finished, everything else is undone.
	//
	// +optional
	Paused bool `json:"paused,omitempty"`

	// The pod label that shows whether a replica works: "true" or "false".
	//
	// +kubebuilder:default=working
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=316
	// +kubebuilder:validation:XValidation:rule="!format.qualifiedName().validate(self).hasValue()",message="workingLabel must be a valid label key"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('offduty.dev/') && !self.contains('kruise.io/')",message="workingLabel must not be one of Offduty's or Kruise's own labels"
	// +optional
	WorkingLabel string `json:"workingLabel,omitempty"`
}

// Target is one Advanced StatefulSet in the plan's namespace.
type Target struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Container name to image. With images the plan sets them on the set's template;
	// without, it rolls out whatever template the set has.
	//
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(c, size(self[c]) > 0 && size(self[c]) <= 1024)",message="every image must be a non-empty reference of at most 1024 characters"
	// +optional
	Images map[string]string `json:"images,omitempty"`
}

// Arbiter names the arbitration service and the group in it.
type Arbiter struct {
	// host:port. Default: the address with which the upgrader was started.
	//
	// +kubebuilder:validation:MaxLength=259
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^:/ ]+:[0-9]{1,5}$') || self.matches('^\\\\[[0-9a-fA-F:]+\\\\]:[0-9]{1,5}$')",message="address must be host:port"
	// +optional
	Address string `json:"address,omitempty"`

	// The group as the arbiter knows it. A name without a slash means the Roster of
	// that name in the plan's namespace.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group"`

	// +optional
	TLS *ArbiterTLS `json:"tls,omitempty"`

	// How long one call may take.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	// +optional
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
}

// ArbiterTLS says how the arbiter is recognised and how the upgrader identifies itself.
type ArbiterTLS struct {
	// A Secret in the plan's namespace with ca.crt, and with tls.crt and tls.key when
	// the arbiter demands a client certificate.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName"`

	// The name in the arbiter's certificate. Default: the host of the address.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServerName string `json:"serverName,omitempty"`
}

// HandoverPolicy says what is done when only working replicas are left.
//
// +kubebuilder:validation:Enum=Request;Wait
type HandoverPolicy string

const (
	// HandoverRequest asks the arbiter to move duty to upgraded replicas.
	HandoverRequest HandoverPolicy = "Request"
	// HandoverWait waits until duty moves by itself.
	HandoverWait HandoverPolicy = "Wait"
)

// Strategy says how carefully a plan proceeds.
type Strategy struct {
	// How many replicas may be under upgrade at a time, over all targets: a count or a
	// percentage, rounded down but at least 1. The arbiter's own limits come on top.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 10000 : self.matches('^([1-9][0-9]?|100)%$')",message="maxUnavailable must be a count of at least 1, or a percentage from 1% to 100%"
	// +optional
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// +kubebuilder:default=Request
	// +optional
	Handover HandoverPolicy `json:"handover,omitempty"`

	// +kubebuilder:default={}
	// +optional
	Drain Drain `json:"drain,omitempty"`

	// +kubebuilder:default={}
	// +optional
	Verify Verify `json:"verify,omitempty"`

	// A plan that has made no progress for so long is Stalled; it goes on when it can.
	//
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=604800
	// +optional
	ProgressDeadlineSeconds int32 `json:"progressDeadlineSeconds,omitempty"`
}

// Drain says how traffic leaves a replica before it is upgraded.
type Drain struct {
	// The readiness gate that is closed, on pods that declare it.
	//
	// +kubebuilder:default=offduty.dev/in-service
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=316
	// +kubebuilder:validation:XValidation:rule="!format.qualifiedName().validate(self).hasValue()",message="gate must be a valid condition type"
	// +kubebuilder:validation:XValidation:rule="!(self in ['InPlaceUpdateReady','KruisePodReady','Ready','ContainersReady','Initialized','PodScheduled'])",message="gate must not be a condition that Kruise or the kubelet writes"
	// +optional
	Gate string `json:"gate,omitempty"`

	// How long InPlaceUpdateReady is False before the image changes (Kruise's
	// inPlaceUpdateStrategy.gracePeriodSeconds).
	//
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	// +optional
	GracePeriodSeconds int32 `json:"gracePeriodSeconds,omitempty"`

	// How long the gate may take to make the pod unready before the upgrade goes on
	// all the same.
	//
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +optional
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
}

// Verify says when an upgraded replica is good.
type Verify struct {
	// How long it must have been ready, apart from the plan's own gate.
	//
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	// +optional
	MinReadySeconds int32 `json:"minReadySeconds,omitempty"`

	// How long it may take to become so; then the plan stalls and names the pod.
	//
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +optional
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
}

// Condition types of an UpgradePlan. Ready, Reconciling and Stalled follow kstatus.
const (
	ConditionReady            = "Ready"
	ConditionReconciling      = "Reconciling"
	ConditionStalled          = "Stalled"
	ConditionProgressing      = "Progressing"
	ConditionArbiterReachable = "ArbiterReachable"
)

// UpgradePlanStatus says how far a plan is, and why not further.
type UpgradePlanStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Upgraded and all replicas, e.g. "3/5".
	// +optional
	Progress string `json:"progress,omitempty"`

	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// Replicas at the update revision and verified.
	// +optional
	UpgradedReplicas int32 `json:"upgradedReplicas,omitempty"`
	// Replicas under a lease of this plan.
	// +optional
	LeasedReplicas int32 `json:"leasedReplicas,omitempty"`
	// Replicas on duty, or of unknown duty.
	// +optional
	WorkingReplicas int32 `json:"workingReplicas,omitempty"`

	// When a replica last took a step forward; the progress deadline counts from here.
	// +optional
	LastProgressTime *metav1.Time `json:"lastProgressTime,omitempty"`

	// +listType=map
	// +listMapKey=name
	// +optional
	Targets []TargetStatus `json:"targets,omitempty"`

	// +listType=map
	// +listMapKey=name
	// +optional
	ReplicaStatuses []ReplicaStatus `json:"replicaStatuses,omitempty"`
}

// TargetStatus is how far one Advanced StatefulSet is.
type TargetStatus struct {
	Name string `json:"name"`
	// +optional
	CurrentRevision string `json:"currentRevision,omitempty"`
	// +optional
	UpdateRevision string `json:"updateRevision,omitempty"`
	// The partition on the set. 2147483647: parked, Kruise updates nothing. Absent while the
	// plan has always had to leave the set alone.
	// +optional
	Partition *int32 `json:"partition,omitempty"`
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// +optional
	UpgradedReplicas int32 `json:"upgradedReplicas,omitempty"`
	// Why this target does not go on, if so.
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// ReplicaStatus is how far one replica is.
type ReplicaStatus struct {
	// The pod's name.
	Name string `json:"name"`
	// Working, Idle or Unknown, as the arbiter says.
	// +optional
	Duty string `json:"duty,omitempty"`
	// Protected, Leased, Draining, Selected, Released, Verifying, Readmitting, Upgraded,
	// Undoing, Failed or Missing.
	// +optional
	Step string `json:"step,omitempty"`
	// +optional
	Revision string `json:"revision,omitempty"`
	// The lease's id.
	// +optional
	Lease string `json:"lease,omitempty"`
	// Why it does not go on.
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// When it came to this step.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
}
