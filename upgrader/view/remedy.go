package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"offduty.dev/upgrader/plan"
)

// Remedy explains one reason.
type Remedy struct {
	// Means says what is going on.
	Means string
	// Do says what a person can do; empty: nothing is to be done, it goes on by itself.
	Do string
}

// WriteFailed is the reason of a plan whose last write was refused (package status).
const WriteFailed plan.Reason = "WriteFailed"

// Remedies has one entry for each reason that a plan, target or replica may show: those of
// package plan, and the kubelet's words that package kruise passes on.
var Remedies = map[plan.Reason]Remedy{
	plan.Complete:    {"every replica is upgraded and verified", ""},
	NotObserved:      {"the upgrader has not yet looked at the latest change of the plan", "if it lasts: is the upgrader running? kubectl -n offduty-system get pods"},
	plan.Paused:      {"spec.paused is set: nothing further is begun", "kubectl offduty resume PLAN"},
	plan.Leaving:     {"the plan is being deleted and gives its targets back; what is past the point of no return is finished first", ""},
	plan.Arming:      {"the target is being taken over: hook, priorities, partition", ""},
	plan.Holding:     {"pods get the hold, without which Kruise could update them", ""},
	plan.Undoing:     {"a replica is given back as it was: its lease was lost, its duty changed, its pod was replaced, or the plan was paused", ""},
	plan.Finishing:   {"every replica is upgraded; the rollout is being concluded", ""},
	plan.Draining:    {"traffic leaves the replica", ""},
	plan.Selecting:   {"Kruise is about to choose exactly the leased replicas", ""},
	plan.Releasing:   {"the lease is pinned and the hold taken off: the point of no return", ""},
	plan.Updating:    {"Kruise changes the images", ""},
	plan.Verifying:   {"the replica runs the new revision, and must stay ready for minReadySeconds", ""},
	plan.Readmitting: {"the replica is given back to duty", ""},

	plan.WritingTemplate: {"the plan's images are being written to the set", ""},
	plan.AcquiringLeases: {"the arbiter is being asked for leases on idle replicas", ""},

	plan.WaitingForDuty: {
		"the replicas that are left work, or their duty is not known",
		"with handover Request: see why no upgraded replica can take over. With handover Wait: move duty, for example in the Roster (spec.assigned.working)",
	},
	plan.WaitingForHandover: {
		"the arbiter is moving duty to an upgraded replica",
		"if it lasts: the worker does not acknowledge that it is idle (kubectl get roster -o yaml, status.members); mend it, or delete its pod",
	},
	plan.HandoverRefused: {
		"the arbiter does not move duty; the message has its rule",
		"if duty is named in the Roster (spec.assigned.working), name upgraded replicas there; else wait for an upgraded replica to be idle and healthy",
	},
	plan.WaitingForLease: {
		"the arbiter refuses a lease; the message has its rule and numbers",
		"at the floor: heal the other replicas, or lower the Roster's floor. At maxLeased: wait for a release. With an overdue pin: finish or release that replica (kubectl offduty release-pin)",
	},
	plan.PinRefused: {
		"the arbiter grants a lease and then refuses to pin it, again and again; the message has its rule",
		"see why duty or readiness of that replica changes while it is leased; an arbiter that never pins must say so in its capabilities",
	},
	plan.WaitingForKruise: {
		"Kruise has not yet seen, or not yet done, what was written",
		"if it lasts: is Kruise's manager running? kubectl -n kruise-system get pods",
	},
	plan.WaitingForPod: {
		"a replica has no running pod",
		"if it lasts: kubectl describe the set and the pod; quota, admission webhooks and full nodes keep pods from being created",
	},

	plan.ReplicaFailed: {
		"an upgraded replica did not become well within verify.timeoutSeconds; it stays pinned, out of duty, and no other is risked",
		"mend the pod; or set an image that works (kubectl offduty undo PLAN for the one before): the plan goes on from that replica",
	},
	plan.SameDigest: {
		"the new image has the same content as the one before, so that nobody can tell whether it was updated",
		"build an image that differs, and set that",
	},
	plan.Unschedulable: {"no node takes the pod", "free resources or mend the pod's constraints; the message has the scheduler's words"},
	plan.NotReady:      {"the pod did not become ready and gives no reason of its own", "see its logs, probes and readiness gates (kubectl describe pod)"},

	"ImagePullBackOff":           pull,
	"ErrImagePull":               pull,
	"ErrImageNeverPull":          {"the image is not on the node, and its pull policy is Never", "load the image onto the node, or change the pull policy"},
	"InvalidImageName":           {"the image's name cannot be read", "correct the image in the plan"},
	"CrashLoopBackOff":           {"the container starts and ends again and again", "see kubectl logs --previous; set an image that works (kubectl offduty undo PLAN)"},
	"CreateContainerConfigError": {"the container's configuration is not complete", "create what is missing: a Secret, a ConfigMap or a key in one"},
	"CreateContainerError":       {"the container cannot be created", "see kubectl describe pod; often a volume, a device or a security setting"},
	"RunContainerError":          {"the container cannot be started", "see kubectl describe pod; often a command that the image does not have"},

	plan.LeaseOutdated: {
		"nothing was begun under a lease in time, so that it was given back and is asked for again; if that happens again and again, the arbiter answers too late",
		"if it lasts: make the arbiter faster, or the upgrader's --lease-ttl longer: half of it has to be enough for two answers of the arbiter",
	},
	plan.LeaseLost:      {"the lease ended before the point of no return, so that the replica was given back", ""},
	plan.DutyChanged:    {"the replica was called to duty before the point of no return, so that it was given back", ""},
	plan.PodReplaced:    {"the pod was replaced while it was leased, so that the new one was left alone", ""},
	plan.WrongPodChosen: {"Kruise marked a pod that was not selected, so that all were taken back", "if it comes again: does something else write the pods' labels or the set's priorities?"},

	plan.Connecting: {"the upgrader is connecting to the arbiter", ""},
	plan.ArbiterUnreachable: {
		"the arbiter does not answer; what is past the point of no return is finished, nothing else is begun",
		"is the arbiter running, is its address right, does a NetworkPolicy let the upgrader reach it?",
	},
	plan.ArbiterDenied:        {"the arbiter does not accept the upgrader's certificate or token", "check spec.arbiter.tls, and the names that the arbiter lets lease (--upgrader-names)"},
	plan.ArbiterConfigInvalid: {"the plan's or the upgrader's settings for the arbiter cannot be used", "correct what the message names: spec.arbiter.address, its Secret, or the upgrader's flags"},
	plan.ArbiterNotSupported:  {"the arbiter cannot make the promises that a plan needs: listing, leases and pins", "use an arbiter that has them"},
	plan.ArbiterFrozen: {
		"the arbiter lost its record; nothing is granted until all holders have told what they hold",
		"it passes by itself when every upgrader is running",
	},
	plan.GroupNotFound: {"the arbiter has no such group", "create the Roster, or correct spec.arbiter.group"},
	plan.HolderRetired: {
		"the arbiter has let go of this plan before, as when it is deleted: the plan was put back by a restore, with its old UID",
		"delete the plan and apply it anew: that is another holder",
	},
	plan.UnknownReplica: {"the arbiter's group does not list a replica of the plan", "make the Roster's selector match the pods of every target"},

	plan.TargetNotFound:     {"there is no such Advanced StatefulSet in the plan's namespace", "create it, or correct spec.targets"},
	plan.TargetNotSupported: {"the set cannot be served as it is; nothing was written to it", "change the set as the message says"},
	plan.TargetTaken:        {"an older plan has this target", "take the target out of one of the plans"},
	plan.ContainerNotFound:  {"the plan names a container that the set does not have", "correct spec.targets[].images"},
	plan.NotInPlace:         {"the set's rollout changes more than images, which cannot be done in place", "let that rollout end, or undo it, before a plan takes the set over"},
	plan.TemplateContested: {
		"something else wrote other images to the set after the plan had written its own",
		"let one of them go: take the images out of the plan, or out of what the other applies, and then pause and resume the plan",
	},
	plan.TemplateRefused: {
		"the images cannot be written to the set: the API server, Kruise or a policy refuses them",
		"the message has their words; correct the images, or what refuses them: it is tried again each minute, and when plan or set change",
	},
	plan.Succeeded: {"another upgrader leads now; this one is about to end", ""},
	WriteFailed:    {"a write was refused; it is tried again", "the message has the API server's words: often an admission policy or a webhook that is down"},
}

var pull = Remedy{"the image cannot be pulled", "correct the image or its pull secret; the message has the registry's words. kubectl offduty undo PLAN goes back to the image before"}

// RemediesMarkdown is the table of all reasons, for the documentation.
func RemediesMarkdown() string {
	reasons := make([]plan.Reason, 0, len(Remedies))
	for r := range Remedies {
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b plan.Reason) int { return cmp.Compare(a, b) })
	var b strings.Builder
	b.WriteString("| reason | what it means | what to do |\n|---|---|---|\n")
	for _, r := range reasons {
		do := Remedies[r].Do
		if do == "" {
			do = "nothing: it goes on by itself"
		}
		if r == plan.Complete {
			do = "nothing"
		}
		name := fmt.Sprintf("`%s`", r)
		if Remedies[r].Do != "" {
			name = fmt.Sprintf("[%s](stuck.md#%s)", name, strings.ToLower(string(r)))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, Remedies[r].Means, do)
	}
	return b.String()
}
