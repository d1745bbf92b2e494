package plan

// Reason says in one word why a plan, target or replica is where it is. The set is closed;
// the same word stands in conditions, events, metrics and logs.
type Reason string

// Stuck is the error of an action that will not succeed however often it is tried.
type Stuck struct{ Blocker }

func (s *Stuck) Error() string { return s.Message }

// The reasons. Each names what is being waited for.
const (
	Complete             Reason = "Complete"
	Paused               Reason = "Paused"
	Leaving              Reason = "Leaving"
	Arming               Reason = "Arming"
	Holding              Reason = "Holding"
	WritingTemplate      Reason = "WritingTemplate"
	WaitingForKruise     Reason = "WaitingForKruise"
	WaitingForPod        Reason = "WaitingForPod"
	WaitingForDuty       Reason = "WaitingForDuty"
	WaitingForLease      Reason = "WaitingForLease"
	PinRefused           Reason = "PinRefused"
	WaitingForHandover   Reason = "WaitingForHandover"
	HandoverRefused      Reason = "HandoverRefused"
	AcquiringLeases      Reason = "AcquiringLeases"
	Draining             Reason = "Draining"
	Selecting            Reason = "Selecting"
	Releasing            Reason = "Releasing"
	Updating             Reason = "Updating"
	Verifying            Reason = "Verifying"
	Readmitting          Reason = "Readmitting"
	Undoing              Reason = "Undoing"
	Finishing            Reason = "Finishing"
	Succeeded            Reason = "Succeeded"
	ReplicaFailed        Reason = "ReplicaFailed"
	Connecting           Reason = "Connecting"
	ArbiterUnreachable   Reason = "ArbiterUnreachable"
	ArbiterDenied        Reason = "ArbiterDenied"
	ArbiterFrozen        Reason = "ArbiterFrozen"
	ArbiterNotSupported  Reason = "ArbiterNotSupported"
	ArbiterConfigInvalid Reason = "ArbiterConfigInvalid"
	GroupNotFound        Reason = "GroupNotFound"
	HolderRetired        Reason = "HolderRetired"
	UnknownReplica       Reason = "UnknownReplica"
	TargetNotFound       Reason = "TargetNotFound"
	TargetNotSupported   Reason = "TargetNotSupported"
	TargetTaken          Reason = "TargetTaken"
	ContainerNotFound    Reason = "ContainerNotFound"
	NotInPlace           Reason = "NotInPlace"
	TemplateContested    Reason = "TemplateContested"
	TemplateRefused      Reason = "TemplateRefused"

	// The pod's own reasons, as far as they are not the kubelet's words.
	SameDigest     Reason = "SameDigest"
	Unschedulable  Reason = "Unschedulable"
	NotReady       Reason = "NotReady"
	LeaseLost      Reason = "LeaseLost"
	LeaseOutdated  Reason = "LeaseOutdated"
	DutyChanged    Reason = "DutyChanged"
	PodReplaced    Reason = "PodReplaced"
	WrongPodChosen Reason = "WrongPodChosen"
)
