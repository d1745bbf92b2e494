package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Roster configures the reference arbiter for one group of replicas that vote together,
// and shows who is on duty and who holds leases.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=all
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Working",type=string,JSONPath=`.status.working`
// +kubebuilder:printcolumn:name="Serving",type=integer,JSONPath=`.status.serving`
// +kubebuilder:printcolumn:name="Floor",type=integer,JSONPath=`.status.floor`
// +kubebuilder:printcolumn:name="Leased",type=string,JSONPath=`.status.leased`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Roster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RosterSpec `json:"spec"`

	// As with UpgradePlan: one that no arbiter has seen yet is not done.

	// +kubebuilder:default:={"observedGeneration":-1}
	Status RosterStatus `json:"status,omitempty"`
}

// RosterList is a list of Rosters.
//
// +kubebuilder:object:root=true
type RosterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Roster `json:"items"`
}

// RosterSpec says who belongs to the group, and who decides which of them work.
//
// +kubebuilder:validation:XValidation:rule="has(self.assigned) != has(self.observed)",message="a roster needs either assigned (the arbiter decides who works) or observed (the application decides), and not both"
// +kubebuilder:validation:XValidation:rule="has(self.assigned) == has(oldSelf.assigned)",message="assigned and observed cannot be exchanged: delete the roster while no plan uses it, and create it anew"
type RosterSpec struct {
	Members Members `json:"members"`

	Floor Floor `json:"floor"`

	// How many replicas may be leased at a time.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxLeased int32 `json:"maxLeased,omitempty"`

	// Leases only in one domain of the nodes' topology at a time.
	//
	// +optional
	Spread *Spread `json:"spread,omitempty"`

	// Times in which no upgrade begins: no lease is granted or pinned, and no duty moved for
	// one. What is pinned already is brought to its end, and so is a replica at a revision that
	// nobody has verified.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	FreezeWindows []FreezeWindow `json:"freezeWindows,omitempty"`

	// A pin that lasts longer is overdue: it blocks further grants and is shown.
	//
	// +kubebuilder:default=1800
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=604800
	// +optional
	PinOverdueSeconds int32 `json:"pinOverdueSeconds,omitempty"`

	// The arbiter decides who works.
	// +optional
	Assigned *AssignedDuty `json:"assigned,omitempty"`

	// The application decides who works, and the arbiter observes it. Whatever is not certain
	// counts as working.
	// +optional
	Observed *ObservedDuty `json:"observed,omitempty"`
}

// Members selects the pods of the group, in the Roster's namespace.
type Members struct {
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="members.selector must not be empty: it would select every pod of the namespace"
	Selector metav1.LabelSelector `json:"selector"`
}

// Spread keeps all leases of a time in one topology domain, so that an upgrade and the loss of
// another domain never meet.
type Spread struct {
	// A label of the nodes, such as topology.kubernetes.io/zone. A replica on a node without
	// it is not leased.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	TopologyKey string `json:"topologyKey"`
}

// FreezeWindow is a time that comes again and again.
type FreezeWindow struct {
	// When it opens: cron's five fields (minute, hour, day of the month, month, day of the
	// week), or a name such as @daily.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=200
	Schedule string `json:"schedule"`

	// For how long it is open.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10080
	DurationMinutes int32 `json:"durationMinutes"`

	// In which time zone, by its IANA name, the schedule is read.
	//
	// +kubebuilder:default=UTC
	// +kubebuilder:validation:MaxLength=64
	// +optional
	TimeZone string `json:"timeZone,omitempty"`
}

// FloorType says how the floor is given.
//
// +kubebuilder:validation:Enum=MinServing;Percent;Quorum
type FloorType string

const (
	// FloorMinServing gives the floor as a number.
	FloorMinServing FloorType = "MinServing"
	// FloorPercent gives it as a share of the members.
	FloorPercent FloorType = "Percent"
	// FloorQuorum takes the majority of a number of voters.
	FloorQuorum FloorType = "Quorum"
)

// Floor is how many replicas must be able to serve at any time.
//
// +kubebuilder:validation:XValidation:rule="has(self.minServing) == (self.type == 'MinServing') && has(self.percent) == (self.type == 'Percent') && has(self.voters) == (self.type == 'Quorum')",message="floor needs minServing with type MinServing, percent with type Percent, or voters with type Quorum, and only that one"
type Floor struct {
	// +kubebuilder:default=MinServing
	// +optional
	Type FloorType `json:"type,omitempty"`

	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	MinServing *int32 `json:"minServing,omitempty"`

	// The floor as a share of the members on record, rounded up. A member counts while it has a
	// pod, duty or a lease, and for ten minutes after that.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	Percent *int32 `json:"percent,omitempty"`

	// How many replicas vote; the floor is the majority, voters/2 + 1.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Voters *int32 `json:"voters,omitempty"`
}

// AssignedDuty lets the arbiter give duty.
//
// +kubebuilder:validation:XValidation:rule="has(self.workers) != has(self.working)",message="assigned needs either workers (a number of slots) or working (names of pods), and not both"
type AssignedDuty struct {
	// So many healthy members work; which ones, the arbiter decides.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Workers *int32 `json:"workers,omitempty"`

	// These pods work, by name. A leased one gets duty only when its lease has ended.
	//
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	Working []string `json:"working,omitempty"`

	// How long after its duty was taken a replica that does not attend counts as idle.
	//
	// +kubebuilder:default=120
	// +kubebuilder:validation:Minimum=120
	// +kubebuilder:validation:Maximum=3600
	// +optional
	SettleSeconds int32 `json:"settleSeconds,omitempty"`

	// How long a worker may be unready before its duty goes to another.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	// +optional
	FailoverSeconds int32 `json:"failoverSeconds,omitempty"`

	// How long a replica that attends may rely on its duty without hearing from the arbiter.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	// +optional
	LifetimeSeconds int32 `json:"lifetimeSeconds,omitempty"`
}

// ObservedDuty says where the arbiter sees who works.
//
// +kubebuilder:validation:XValidation:rule="[has(self.pods), has(self.lease), has(self.http), has(self.grpc), has(self.etcd)].exists_one(x, x)",message="observed needs one source (pods, lease, http, grpc or etcd), and not several"
// +kubebuilder:validation:XValidation:rule="!has(self.workers) || !has(self.lease)",message="workers is not for the source lease: a lease has one holder"
// +kubebuilder:validation:XValidation:rule="!has(self.workers) || !has(self.etcd)",message="workers is not for the source etcd: it has one leader"
type ObservedDuty struct {
	// So many members work while the application is settled. As long as another number is
	// seen, as during an election or with two primaries, nobody counts as idle. Without it
	// any number is believed.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Workers *int32 `json:"workers,omitempty"`

	// Each pod itself shows whether it works.
	// +optional
	Pods *PodsSource `json:"pods,omitempty"`

	// The holder of a Lease works.
	// +optional
	Lease *LeaseSource `json:"lease,omitempty"`

	// Each member is asked by HTTP.
	// +optional
	HTTP *HTTPSource `json:"http,omitempty"`

	// Each member is asked by gRPC.
	// +optional
	GRPC *GRPCSource `json:"grpc,omitempty"`

	// Each member is asked by etcd's own API.
	// +optional
	Etcd *EtcdSource `json:"etcd,omitempty"`
}

// Probing says how often each member is asked, and for how long its answer is believed.
//
// +kubebuilder:validation:XValidation:rule="self.maxAgeSeconds > self.periodSeconds + self.timeoutSeconds",message="maxAgeSeconds must be more than periodSeconds and timeoutSeconds together: an answer would be too old before the next one comes"
type Probing struct {
	// How often.
	//
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	// +optional
	PeriodSeconds int32 `json:"periodSeconds,omitempty"`

	// How long an answer may take.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=30
	// +optional
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`

	// For how long an answer is believed, counted from the question. After that the duty of the
	// member is unknown.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=3
	// +kubebuilder:validation:Maximum=900
	// +optional
	MaxAgeSeconds int32 `json:"maxAgeSeconds,omitempty"`

	// How many times in a row a member must say that it is idle before it counts as idle. That
	// it works is believed at once.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	// +optional
	SuccessThreshold int32 `json:"successThreshold,omitempty"`

	// After how many questions in a row without a clear answer the last one is not believed any
	// more. A pin is always decided on an answer of its own.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	// +optional
	FailureThreshold int32 `json:"failureThreshold,omitempty"`
}

// Endpoint is where a member is asked: at a port of its own pod's address, and nowhere else.
type Endpoint struct {
	// A number, or the name of a port of the pod.
	//
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 65535 : self.matches('^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$')",message="port must be a number from 1 to 65535 or the name of a container port"
	// +kubebuilder:validation:XIntOrString
	Port intstr.IntOrString `json:"port"`

	// How the member is recognised, and how the arbiter identifies itself to it.
	// +optional
	TLS *MemberTLS `json:"tls,omitempty"`
}

// MemberTLS says how members are recognised and how the arbiter identifies itself to them.
// Whoever writes it into a roster must be allowed to get the Secret.
type MemberTLS struct {
	// A Secret in the roster's namespace with ca.crt, and with tls.crt and tls.key when members
	// demand a client certificate. Without ca.crt those of the system are trusted.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	SecretName string `json:"secretName,omitempty"`

	// A ConfigMap in the roster's namespace with ca.crt, instead of the Secret's.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ConfigMapName string `json:"configMapName,omitempty"`

	// The name in the members' certificates. Default: each one's own IP address.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServerName string `json:"serverName,omitempty"`
}

// HTTPScheme is HTTP or HTTPS.
//
// +kubebuilder:validation:Enum=HTTP;HTTPS
type HTTPScheme string

// The schemes.
const (
	SchemeHTTP  HTTPScheme = "HTTP"
	SchemeHTTPS HTTPScheme = "HTTPS"
)

// HTTPSource asks each member by HTTP whether it works, with GET at its own pod's address. No
// redirect is followed and no proxy used.
//
// +kubebuilder:validation:XValidation:rule="has(self.path) != (has(self.working) || has(self.idle))",message="http needs either path, which answers with the duty as JSON, or working and idle, which answer with a status"
// +kubebuilder:validation:XValidation:rule="has(self.working) == has(self.idle)",message="http needs both working and idle: what is neither is unknown"
// +kubebuilder:validation:XValidation:rule="!has(self.maxLagBytes) || has(self.path)",message="maxLagBytes is for path, whose answer tells the lag; with working and idle use fit"
// +kubebuilder:validation:XValidation:rule="has(self.handover) || !has(self.fit) && !has(self.maxLagBytes)",message="fit and maxLagBytes say who may take over: they need handover"
// +kubebuilder:validation:XValidation:rule="!has(self.tls) || self.scheme == 'HTTPS'",message="tls needs scheme HTTPS"
type HTTPSource struct {
	Endpoint `json:",inline"`

	// +kubebuilder:default=HTTP
	// +optional
	Scheme HTTPScheme `json:"scheme,omitempty"`

	// What answers with the member's duty as JSON, {"duty": "working"}; docs/observed.md has all
	// of it.
	//
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^/[!-"$-~]*$`
	// +optional
	Path string `json:"path,omitempty"`

	// One that answers so works.
	// +optional
	Working *HTTPAnswer `json:"working,omitempty"`

	// One that answers so, and not as one that works, is idle.
	// +optional
	Idle *HTTPAnswer `json:"idle,omitempty"`

	// One that does not answer so can take over no duty.
	// +optional
	Fit *HTTPAnswer `json:"fit,omitempty"`

	// One that lags further behind, or does not say how far, can take over no duty.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxLagBytes *int64 `json:"maxLagBytes,omitempty"`

	// How a member that works is asked to hand its duty over, for plans with handover: Request.
	// Without it they wait until the application moves duty.
	// +optional
	Handover *HTTPHandover `json:"handover,omitempty"`

	// +kubebuilder:default={periodSeconds:2,timeoutSeconds:1,maxAgeSeconds:10,successThreshold:1,failureThreshold:1}
	// +optional
	Probe Probing `json:"probe,omitempty"`
}

// HTTPHandover is a POST to the member that works, with the body {"leader": "sample-0",
// "candidate": "sample-1"}, each a pod's name. A status of 400 to 499 says that nothing was and
// will be done; whatever else is answered, whether duty has moved is seen by the source.
type HTTPHandover struct {
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^/[!-"$-~]*$`
	Path string `json:"path"`
}

// GRPCSource asks each member by gRPC whether it works, at its own pod's address: by
// offduty.duty.v1.DutyService, or, with health, by grpc.health.v1.Health.
//
// +kubebuilder:validation:XValidation:rule="!has(self.handover) || !self.handover || !has(self.health)",message="handover is for DutyService: health cannot be asked for one"
// +kubebuilder:validation:XValidation:rule="has(self.handover) && self.handover || !has(self.maxLagBytes)",message="maxLagBytes says who may take over: it needs handover"
type GRPCSource struct {
	Endpoint `json:",inline"`

	// Ask for the health of services, one for each duty, instead of DutyService.
	// +optional
	Health *GRPCHealth `json:"health,omitempty"`

	// One that lags further behind, or does not say how far, can take over no duty.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxLagBytes *int64 `json:"maxLagBytes,omitempty"`

	// Ask a member that works to hand its duty over, by DutyService.HandOver, for plans with
	// handover: Request. Without it they wait until the application moves duty.
	// +optional
	Handover bool `json:"handover,omitempty"`

	// +kubebuilder:default={periodSeconds:2,timeoutSeconds:1,maxAgeSeconds:10,successThreshold:1,failureThreshold:1}
	// +optional
	Probe Probing `json:"probe,omitempty"`
}

// GRPCHealth are services of grpc.health.v1, of which exactly one is SERVING at a member.
//
// +kubebuilder:validation:XValidation:rule="self.working != self.idle",message="working and idle must be two services"
type GRPCHealth struct {
	// SERVING at a member that works.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Working string `json:"working"`

	// SERVING at a member that is idle.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Idle string `json:"idle"`
}

// EtcdSource asks each member of an etcd cluster about itself, by etcd's own API at its own pod's
// address. The leader that a majority confirms works; a healthy voter that follows it and does not
// lag is idle. With handover: Request a plan has leadership moved to an upgraded one (MoveLeader).
type EtcdSource struct {
	Endpoint `json:",inline"`

	// How many entries of its log an idle member may lag behind the leader.
	//
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxLagEntries *int64 `json:"maxLagEntries,omitempty"`

	// +kubebuilder:default={periodSeconds:2,timeoutSeconds:1,maxAgeSeconds:10,successThreshold:1,failureThreshold:1}
	// +optional
	Probe Probing `json:"probe,omitempty"`
}

// HTTPAnswer is a status with which a path is answered.
type HTTPAnswer struct {
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^/[!-"$-~]*$`
	Path string `json:"path"`

	// +kubebuilder:default=200
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=599
	// +optional
	Status int32 `json:"status,omitempty"`
}

// LeaseSource sees in a coordination.k8s.io Lease who works: its holder, by the convention of
// client-go's leader election. The holder's identity is a pod's name, or begins with it and "_".
// While nobody holds it, or the holder does not renew it, nobody counts as idle.
type LeaseSource struct {
	// Its name, in the Roster's namespace.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// PodsSource sees in each pod whether it works.
type PodsSource struct {
	// A CEL expression over the pod, as "object": true means that it works, false that it is
	// idle. While it cannot be evaluated for a pod, that pod's duty is unknown.
	//
	// It sees what docs/observed.md lists of the pod's metadata, spec and status. Labels and
	// annotations are always there, if empty. An expression that does not compile is shown in
	// the condition Ready, with the position.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Working string `json:"working"`
}

// RosterStatus is the arbiter's record: it is read back after a restart. Do not edit it.
type RosterStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Names of the members on duty, separated by commas; for people.
	// +optional
	Working string `json:"working,omitempty"`
	// Names of the leased members, separated by commas; for people.
	// +optional
	Leased string `json:"leased,omitempty"`
	// Names of the members at a revision that nobody has verified, separated by commas; for
	// people. They get no duty, and the floor does not count them.
	// +optional
	Quarantined string `json:"quarantined,omitempty"`
	// +optional
	Serving int32 `json:"serving,omitempty"`
	// +optional
	Floor int32 `json:"floor,omitempty"`

	// Begun anew whenever the record was lost.
	// +optional
	Epoch string `json:"epoch,omitempty"`
	// The record was lost; duty and grants wait until holders have adopted anew.
	// +optional
	Frozen bool `json:"frozen,omitempty"`
	// The last token given out.
	// +optional
	LastToken int64 `json:"lastToken,omitempty"`
	// For how long a member may rely on its duty at most, as it was last told: what a
	// lifetimeSeconds that was changed meanwhile does not take back. An arbiter that begins
	// anew leaves members that time.
	// +optional
	PromisedSeconds int32 `json:"promisedSeconds,omitempty"`

	// +listType=map
	// +listMapKey=name
	// +optional
	Members []MemberRecord `json:"members,omitempty"`
	// +listType=map
	// +listMapKey=replica
	// +optional
	Leases []LeaseRecord `json:"leases,omitempty"`
	// +listType=map
	// +listMapKey=holder
	// +optional
	Holders []HolderRecord `json:"holders,omitempty"`
	// The last holders that have gone, newest first; at most 32. None of them can adopt again.
	// +listType=atomic
	// +optional
	Retired []RetiredRecord `json:"retired,omitempty"`
	// Handovers that the application was asked for, each once. Those of plans that are gone and
	// of replicas at another revision are forgotten in time.
	// +listType=atomic
	// +optional
	Handovers []HandoverRecord `json:"handovers,omitempty"`
	// Revisions whose pods may get duty while an upgrade plan is at work.
	// +listType=set
	// +optional
	TrustedRevisions []string `json:"trustedRevisions,omitempty"`
	// The last administrative releases, newest first; at most 16.
	// +listType=atomic
	// +optional
	ForceReleases []ForceReleaseRecord `json:"forceReleases,omitempty"`
}

// MemberRecord is the duty of one member.
type MemberRecord struct {
	// The pod's name.
	Name string `json:"name"`
	// Whether it has been given duty; in an observed roster, whether it was last seen to work.
	// +optional
	Assigned bool `json:"assigned,omitempty"`
	// Grows with each change of Assigned.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Working, Idle or Unknown: what it does as far as the arbiter has seen.
	Duty string `json:"duty"`
	// Whether it has ever attended; one that has is asked, one that has not is timed.
	// +optional
	Attends bool `json:"attends,omitempty"`
	// The pod's UID when last seen.
	// +optional
	UID string `json:"uid,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// LeaseRecord is one lease.
type LeaseRecord struct {
	// The pod's name.
	Replica string `json:"replica"`
	ID      string `json:"id"`
	Holder  string `json:"holder"`
	Token   int64  `json:"token"`
	// Leased, Pinned or Expired.
	Phase string `json:"phase"`
	// +optional
	Instance string `json:"instance,omitempty"`
	// +optional
	RequestID  string `json:"requestID,omitempty"`
	TTLSeconds int32  `json:"ttlSeconds"`
	// It did not serve when it was leased: the floor does not count it at the pin.
	// +optional
	NotServing bool `json:"notServing,omitempty"`
	// +optional
	GrantedAt *metav1.Time `json:"grantedAt,omitempty"`
	// +optional
	PinnedAt *metav1.Time `json:"pinnedAt,omitempty"`
}

// HolderRecord is the fence of one holder.
type HolderRecord struct {
	Holder string `json:"holder"`
	Term   int64  `json:"term"`
	// +optional
	Identity string `json:"identity,omitempty"`
	Token    int64  `json:"token"`
}

// HandoverRecord is a handover that the application was asked for.
type HandoverRecord struct {
	Holder string `json:"holder"`
	// The pod that worked, at this revision.
	From string `json:"from"`
	// +optional
	Revision string `json:"revision,omitempty"`
}

// RetiredRecord is a holder that has gone.
type RetiredRecord struct {
	Holder string `json:"holder"`
	Term   int64  `json:"term"`
}

// ForceReleaseRecord tells of an administrator's release.
type ForceReleaseRecord struct {
	Time    metav1.Time `json:"time"`
	By      string      `json:"by"`
	Replica string      `json:"replica"`
	LeaseID string      `json:"leaseID"`
	Holder  string      `json:"holder"`
	Reason  string      `json:"reason"`
}
