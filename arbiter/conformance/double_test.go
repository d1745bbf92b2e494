package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/conformance"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// fault is what is wrong with a double; the zero fault is nothing.
type fault string

// record is what the double writes to its disk.
type record struct {
	Last    int64
	Holders map[string]fenced
	Retired map[string]bool
	Leases  map[string]lease // by replica
	Used    int              // ids given
}

type fenced struct {
	Term     int64
	Identity string
	Token    int64
}

type lease struct {
	ID, Holder, Request, Instance string
	Token                         int64
	TTL                           time.Duration
	Pinned, Expired               bool
	Granted                       time.Time
}

// process is a replica of the double's application, which decides by itself who works.
type process struct {
	instance string
	works    bool
	unfit    bool
}

// double is a small arbiter that is right but for its fault: an arbiter in an afternoon.
type double struct {
	arbiterv1.UnimplementedArbiterServiceServer
	fault fault
	now   func() time.Time
	calls atomic.Int64

	mu sync.Mutex
	// disk is what a restart leaves; the rest of the arbiter's state is its process's.
	disk     []byte
	rec      record
	skew     time.Duration
	age      map[string]time.Time // since when a lease is as young as it is, by id
	revision int64
	changed  chan struct{}
	stale    *arbiterv1.GroupState // an older state, for faults

	app map[string]*process
}

const (
	doubleGroup = "demo/voters"
	floor       = 3
	maxLeases   = 3
)

func newDouble(f fault, now func() time.Time) *double {
	d := &double{fault: f, now: now, changed: make(chan struct{}), app: map[string]*process{}}
	for i := range 5 {
		d.app[fmt.Sprintf("demo/voter-%d", i)] = &process{instance: fmt.Sprintf("uid-%d", i), works: i == 0}
	}
	d.boot()
	return d
}

// boot begins a process on what the disk has.
func (d *double) boot() {
	d.rec = record{Holders: map[string]fenced{}, Retired: map[string]bool{}, Leases: map[string]lease{}}
	if d.disk != nil {
		if err := json.Unmarshal(d.disk, &d.rec); err != nil {
			panic(err)
		}
	}
	d.age = map[string]time.Time{}
	for _, l := range d.rec.Leases {
		d.age[l.ID] = d.now()
	}
}

// save writes the record, and tells who watches.
func (d *double) save() {
	rec := d.rec
	if d.fault == "pins are kept in memory" {
		rec.Leases = maps.Clone(rec.Leases)
		for name, l := range rec.Leases {
			l.Pinned = false
			rec.Leases[name] = l
		}
	}
	data, err := json.Marshal(rec)
	if err != nil {
		panic(err)
	}
	if d.fault != "nothing is written down" {
		d.disk = data
	}
	d.tell()
}

func (d *double) tell() {
	if d.fault != "revisions stand still" {
		d.revision++
	}
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *double) driver() conformance.Driver {
	act := func(do func()) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		do()
		d.failover()
		d.tell()
		return nil
	}
	return conformance.Driver{
		SetDuty: func(_ context.Context, replica string, working bool) error {
			return act(func() { d.app[replica].works = working })
		},
		SetServing: func(_ context.Context, replica string, serving bool) error {
			return act(func() { d.app[replica].unfit = !serving })
		},
		Recreate: func(_ context.Context, replica string) error {
			return act(func() {
				d.app[replica].instance += "'"
				if d.fault == "a lease dies with its pod" {
					delete(d.rec.Leases, replica)
				}
			})
		},
		Restart: func(_ context.Context, clock time.Duration) error {
			return act(func() { d.skew = clock; d.boot() })
		},
	}
}

// failover moves duty from who cannot serve to the first who may.
func (d *double) failover() {
	for _, from := range d.names() {
		if p := d.app[from]; !p.works || !p.unfit {
			continue
		}
		for _, to := range d.names() {
			_, leased := d.rec.Leases[to]
			if leased && d.fault != "failover does not look at leases" || d.app[to].works || d.app[to].unfit {
				continue
			}
			d.app[from].works, d.app[to].works = false, true
			return
		}
	}
}

func (d *double) names() []string { return slices.Sorted(maps.Keys(d.app)) }

// expire ends what has run out. A later call finds it ended: there is nobody to fence.
func (d *double) expire() {
	for name, l := range d.rec.Leases {
		young := d.now().Sub(d.age[l.ID]) < l.TTL
		if d.fault == "times are compared by clocks" {
			young = d.now().Add(d.skew).Sub(l.Granted) < l.TTL
		}
		if !young && (!l.Pinned || d.fault == "pins run out") && !l.Expired {
			l.Expired = true
			d.rec.Leases[name] = l
			d.save()
		}
	}
}

func (d *double) serves(name string) bool {
	_, leased := d.rec.Leases[name]
	return !d.app[name].unfit && (!leased || d.fault == "leased replicas serve")
}

func (d *double) serving() int {
	n := 0
	for name := range d.app {
		if d.serves(name) {
			n++
		}
	}
	return n
}

func (d *double) state() *arbiterv1.GroupState {
	s := &arbiterv1.GroupState{Group: doubleGroup, Revision: d.revision + 1, Epoch: "e", Floor: floor, MaxLeased: maxLeases, Serving: int32(d.serving())} //nolint:gosec // five
	for _, name := range d.names() {
		p := d.app[name]
		r := &arbiterv1.Replica{Name: name, Instance: p.instance, Duty: arbiterv1.Duty_DUTY_IDLE, Serving: d.serves(name)}
		if d.works(name) {
			r.Duty = arbiterv1.Duty_DUTY_WORKING
		}
		if l, ok := d.rec.Leases[name]; ok {
			r.Lease = wire(name, l)
		}
		s.Replicas = append(s.Replicas, r)
	}
	return s
}

// works is what the double sees of its application.
func (d *double) works(name string) bool {
	_, leased := d.rec.Leases[name]
	return d.app[name].works && (!leased || d.fault != "who is leased is called idle")
}

func wire(name string, l lease) *arbiterv1.Lease {
	phase := arbiterv1.LeasePhase_LEASE_PHASE_LEASED
	switch {
	case l.Expired:
		phase = arbiterv1.LeasePhase_LEASE_PHASE_EXPIRED
	case l.Pinned:
		phase = arbiterv1.LeasePhase_LEASE_PHASE_PINNED
	}
	return &arbiterv1.Lease{Id: l.ID, Replica: name, Holder: l.Holder, Token: l.Token, Phase: phase, Instance: l.Instance, Ttl: durationpb.New(l.TTL)}
}

func no(r arbiterv1.RefusalReason) *arbiterv1.Refusal {
	return &arbiterv1.Refusal{Reason: r, Rule: "rule", Message: "no"}
}

// bad is INVALID_ARGUMENT for a field.
func bad(field string) error {
	st, err := status.New(codes.InvalidArgument, field+" is beyond its limit").WithDetails(
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: "limit"}}})
	if err != nil {
		return err
	}
	return st.Err()
}

// enter begins every call: it checks the group, and locks.
func (d *double) enter(group string) error {
	switch {
	case len(group) == 0 || len(group) > 253:
		return bad("group")
	case group != doubleGroup && d.fault != "every group exists":
		return status.Error(codes.NotFound, "there is no such group")
	}
	d.mu.Lock()
	d.expire()
	return nil
}

// admit is the server's interceptor: an outsider may look, and nothing else.
func (d *double) admit(ctx context.Context, q any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("outsider")) > 0 && d.fault != "everybody may lease" {
		return nil, status.Error(codes.PermissionDenied, "who are you?")
	}
	d.calls.Add(1)
	return next(ctx, q)
}

func (d *double) GetCapabilities(_ context.Context, q *arbiterv1.GetCapabilitiesRequest) (*arbiterv1.GetCapabilitiesResponse, error) {
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return &arbiterv1.GetCapabilitiesResponse{Listing: true, Leases: arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED, Handover: true, Implementation: "double"}, nil
}

func (d *double) ListReplicas(_ context.Context, q *arbiterv1.ListReplicasRequest) (*arbiterv1.ListReplicasResponse, error) {
	if d.fault == "a state without replicas after many calls" && d.calls.Load() > 500 {
		return &arbiterv1.ListReplicasResponse{State: &arbiterv1.GroupState{}}, nil
	}
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if d.fault == "states are old ones" {
		if d.stale == nil || d.revision%8 == 0 {
			d.stale = d.state()
		}
		return &arbiterv1.ListReplicasResponse{State: d.stale}, nil
	}
	return &arbiterv1.ListReplicasResponse{State: d.state()}, nil
}

func (d *double) WatchReplicas(q *arbiterv1.WatchReplicasRequest, out grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error {
	sent := 0
	for {
		if err := d.enter(q.GetGroup()); err != nil {
			return err
		}
		s, changed := d.state(), d.changed
		d.mu.Unlock()
		switch {
		case d.fault == "a watch sends what has changed" && sent > 0:
			s.Replicas = s.GetReplicas()[:1]
		case d.fault == "a watch begins with the next change" && sent == 0, d.fault == "a watch ends at ten states" && sent > 9:
			s = nil
		}
		if s != nil {
			if err := out.Send(&arbiterv1.WatchReplicasResponse{State: s}); err != nil {
				return err
			}
		}
		sent++
		select {
		case <-changed:
		case <-out.Context().Done():
			return nil
		}
	}
}

func (d *double) AdoptLeases(_ context.Context, q *arbiterv1.AdoptLeasesRequest) (*arbiterv1.AdoptLeasesResponse, error) {
	switch {
	case q.GetHolder() == "":
		return nil, bad("holder")
	case q.GetIdentity() == "":
		return nil, bad("identity")
	case q.GetTerm() < 0:
		return nil, bad("term")
	}
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	h, known := d.rec.Holders[q.GetHolder()]
	switch {
	case d.rec.Retired[q.GetHolder()] && d.fault != "retired holders come back":
		return &arbiterv1.AdoptLeasesResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_RETIRED)}, nil
	case known && q.GetTerm() < h.Term && d.fault != "terms are not compared":
		return &arbiterv1.AdoptLeasesResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN)}, nil
	case !known || h.Term != q.GetTerm() || h.Identity != q.GetIdentity():
		d.rec.Last++
		h = fenced{q.GetTerm(), q.GetIdentity(), d.rec.Last}
		d.rec.Holders[q.GetHolder()] = h
	}
	for _, l := range q.GetKnownLeases() {
		if _, taken := d.rec.Leases[l.GetReplica()]; !taken && d.fault == "claims are believed" {
			d.rec.Leases[l.GetReplica()] = lease{ID: l.GetId(), Holder: q.GetHolder(), Pinned: true, TTL: time.Minute}
		}
	}
	out := &arbiterv1.AdoptLeasesResponse{Token: h.Token, Leases: d.raise(q.GetHolder(), h.Token)}
	d.save()
	return out, nil
}

// raise gives all leases of a holder its token.
func (d *double) raise(holder string, token int64) []*arbiterv1.Lease {
	var out []*arbiterv1.Lease
	for _, name := range d.names() {
		l, ok := d.rec.Leases[name]
		if !ok || l.Holder != holder {
			continue
		}
		if d.fault != "adoption raises no lease" {
			l.Token = token
		}
		d.rec.Leases[name] = l
		out = append(out, wire(name, l))
	}
	return out
}

func (d *double) holds(holder string, token int64) bool {
	h, ok := d.rec.Holders[holder]
	return ok && (h.Token == token || d.fault == "old tokens acquire")
}

func checkAcquire(q *arbiterv1.AcquireLeasesRequest, f fault) error {
	ttl := q.GetTtl()
	switch {
	case q.GetHolder() == "" || len(q.GetHolder()) > 253:
		return bad("holder")
	case q.GetRequestId() == "" || len(q.GetRequestId()) > 128:
		return bad("request_id")
	case len(q.GetCandidates()) == 0 || len(q.GetCandidates()) > 1000:
		return bad("candidates")
	case q.GetMax() < 1 || q.GetMax() > 1000:
		return bad("max")
	case !ttl.IsValid() || ttl.GetNanos() != 0 || ttl.GetSeconds() < 1 || ttl.GetSeconds() > 3600:
		if f != "any TTL is good" {
			return bad("ttl")
		}
	}
	return nil
}

func (d *double) AcquireLeases(ctx context.Context, q *arbiterv1.AcquireLeasesRequest) (*arbiterv1.AcquireLeasesResponse, error) {
	if err := checkAcquire(q, d.fault); err != nil {
		return nil, err
	}
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if !d.holds(q.GetHolder(), q.GetToken()) {
		return &arbiterv1.AcquireLeasesResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN)}, nil
	}
	left := int(q.GetMax())
	for _, name := range d.names() {
		if l, ok := d.rec.Leases[name]; ok && d.counts(name, l, q) {
			left--
		}
	}
	out := &arbiterv1.AcquireLeasesResponse{}
	for _, c := range q.GetCandidates() {
		l, refusal := d.candidate(ctx, q, c, &left)
		switch {
		case refusal != 0:
			out.Refusals = append(out.Refusals, &arbiterv1.CandidateRefusal{Replica: c.GetReplica(), Refusal: no(refusal)})
		case l != nil:
			out.Leases = append(out.Leases, wire(c.GetReplica(), *l))
		}
	}
	d.save()
	return out, nil
}

// counts says whether a lease that there is counts against max.
func (d *double) counts(name string, l lease, q *arbiterv1.AcquireLeasesRequest) bool {
	if l.Request == q.GetRequestId() {
		return d.fault != "requests have no identity"
	}
	named := slices.ContainsFunc(q.GetCandidates(), func(c *arbiterv1.Candidate) bool { return c.GetReplica() == name })
	return named && l.Holder == q.GetHolder() && d.fault != "what is there already does not count"
}

// candidate grants one, says why not, or neither: beyond max.
func (d *double) candidate(ctx context.Context, q *arbiterv1.AcquireLeasesRequest, c *arbiterv1.Candidate, left *int) (*lease, arbiterv1.RefusalReason) {
	if l, taken := d.rec.Leases[c.GetReplica()]; taken {
		switch mine := l.Holder == q.GetHolder() || d.fault == "a lease is everybody's"; {
		case !mine:
			return nil, arbiterv1.RefusalReason_REFUSAL_REASON_LEASED_BY_OTHER
		case l.Expired:
			return nil, arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST
		}
		return &l, 0
	}
	if *left <= 0 && d.fault != "max is not counted" {
		return nil, 0
	}
	if r := d.mayLease(c); r != 0 {
		return nil, r
	}
	d.race(ctx)
	l := d.grant(q, c)
	*left--
	return &l, 0
}

// race is one that is lost each time: it lets everybody else in between deciding and writing. In a
// bubble time passes only when all others wait, too.
func (d *double) race(ctx context.Context) {
	if d.fault != "leases are checked, then written" {
		return
	}
	d.mu.Unlock()
	defer d.mu.Lock()
	t := time.NewTimer(time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (d *double) mayLease(c *arbiterv1.Candidate) arbiterv1.RefusalReason {
	p, ok := d.app[c.GetReplica()]
	limit := floor
	if d.fault == "the floor is one too low" {
		limit--
	}
	switch {
	case !ok:
		return arbiterv1.RefusalReason_REFUSAL_REASON_UNKNOWN_REPLICA
	case p.instance != c.GetInstance() && d.fault != "instances are not compared":
		return arbiterv1.RefusalReason_REFUSAL_REASON_INSTANCE_CHANGED
	case p.works && d.fault != "who works is leased":
		return arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE
	case len(d.rec.Leases) >= maxLeases:
		return arbiterv1.RefusalReason_REFUSAL_REASON_MAX_LEASED
	case d.serves(c.GetReplica()) && d.serving()-1 < limit:
		return arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR
	}
	return 0
}

func (d *double) grant(q *arbiterv1.AcquireLeasesRequest, c *arbiterv1.Candidate) lease {
	d.rec.Used++
	if d.fault != "a grant has its holder's token" {
		d.rec.Last++
	}
	l := lease{
		ID: fmt.Sprintf("lease-%d", d.rec.Used), Holder: q.GetHolder(), Request: q.GetRequestId(), Instance: c.GetInstance(),
		Token: d.rec.Last, TTL: q.GetTtl().AsDuration(), Granted: d.now().Add(d.skew),
	}
	if d.fault == "a lease has its replica's id" {
		l.ID = c.GetReplica()
	}
	if d.fault == "a grant has its holder's token" {
		l.Token = q.GetToken()
	}
	d.rec.Leases[c.GetReplica()], d.age[l.ID] = l, d.now()
	return l
}

// find returns the lease of a reference, or why not.
func (d *double) find(r *arbiterv1.LeaseRef) (string, lease, *arbiterv1.Refusal) {
	for name, l := range d.rec.Leases {
		if l.ID != r.GetId() {
			continue
		}
		if l.Token != r.GetToken() && d.fault != "old tokens act" {
			return name, l, no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN)
		}
		return name, l, nil
	}
	return "", lease{}, no(arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST)
}

func (d *double) RenewLeases(_ context.Context, q *arbiterv1.RenewLeasesRequest) (*arbiterv1.RenewLeasesResponse, error) {
	if len(q.GetLeases()) == 0 {
		return nil, bad("leases")
	}
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	out := &arbiterv1.RenewLeasesResponse{}
	for _, r := range q.GetLeases() {
		name, l, refusal := d.find(r)
		switch {
		case refusal != nil && name == "" && d.fault == "what is gone is renewed":
			refusal = nil
		case refusal != nil:
		case l.Expired && d.fault != "what ran out is renewed":
			refusal = no(arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST)
		default:
			l.Expired, d.age[l.ID], l.Granted = false, d.now(), d.now().Add(d.skew)
			if d.fault == "a renewal changes nothing" {
				d.age[l.ID] = d.now().Add(-l.TTL * 3 / 4)
			}
			d.rec.Leases[name] = l
		}
		out.Results = append(out.Results, &arbiterv1.RenewResult{Id: r.GetId(), Refusal: refusal})
	}
	if d.fault == "renewals are answered backwards" {
		slices.Reverse(out.GetResults())
	}
	return out, nil
}

func (d *double) PinLease(_ context.Context, q *arbiterv1.PinLeaseRequest) (*arbiterv1.PinLeaseResponse, error) {
	switch {
	case q.GetLease().GetId() == "":
		return nil, bad("lease")
	case q.GetInstance() == "":
		return nil, bad("instance")
	}
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	name, l, refusal := d.find(q.GetLease())
	if refusal == nil && (!l.Pinned || d.fault == "pins are made once") {
		refusal = d.mayPin(name, l, q.GetInstance())
	}
	if refusal != nil {
		if d.fault == "a refused pin ends the lease" {
			delete(d.rec.Leases, name)
			d.save()
		}
		return &arbiterv1.PinLeaseResponse{Refusal: refusal}, nil
	}
	l.Pinned, l.Instance = true, q.GetInstance()
	d.rec.Leases[name] = l
	d.save()
	return &arbiterv1.PinLeaseResponse{Lease: wire(name, l)}, nil
}

func (d *double) mayPin(name string, l lease, instance string) *arbiterv1.Refusal {
	switch {
	case l.Expired, l.Pinned:
		return no(arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST)
	case d.app[name].instance != instance && d.fault != "pins look at no instance":
		return no(arbiterv1.RefusalReason_REFUSAL_REASON_INSTANCE_CHANGED)
	case d.app[name].works && d.fault != "pins look at no duty":
		return no(arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE)
	case d.serving() < floor && d.fault != "pins look at no floor":
		return no(arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR)
	}
	return nil
}

func (d *double) ReleaseLease(_ context.Context, q *arbiterv1.ReleaseLeaseRequest) (*arbiterv1.ReleaseLeaseResponse, error) {
	switch {
	case q.GetLease().GetId() == "":
		return nil, bad("lease")
	case q.GetOutcome() != arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNDONE && q.GetOutcome() != arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED:
		return nil, bad("outcome")
	case q.GetOutcome() == arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED && q.GetVersion() == "":
		return nil, bad("version")
	}
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	name, _, refusal := d.find(q.GetLease())
	if refusal != nil && name != "" {
		return &arbiterv1.ReleaseLeaseResponse{Refusal: refusal}, nil
	}
	if refusal != nil && d.fault == "a late release ends any lease" {
		clear(d.rec.Leases)
	}
	if refusal != nil && d.fault == "a second release fails" {
		return &arbiterv1.ReleaseLeaseResponse{Refusal: refusal}, nil
	}
	delete(d.rec.Leases, name)
	d.save()
	return &arbiterv1.ReleaseLeaseResponse{}, nil
}

func (d *double) RetireHolder(_ context.Context, q *arbiterv1.RetireHolderRequest) (*arbiterv1.RetireHolderResponse, error) {
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	h, known := d.rec.Holders[q.GetHolder()]
	if !known {
		return &arbiterv1.RetireHolderResponse{}, nil
	}
	if h.Token != q.GetToken() {
		return &arbiterv1.RetireHolderResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN)}, nil
	}
	for _, l := range d.rec.Leases {
		if l.Holder == q.GetHolder() {
			return &arbiterv1.RetireHolderResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_HAS_LEASES)}, nil
		}
	}
	delete(d.rec.Holders, q.GetHolder())
	d.rec.Retired[q.GetHolder()] = true
	d.save()
	return &arbiterv1.RetireHolderResponse{}, nil
}

func (d *double) RequestHandover(_ context.Context, q *arbiterv1.RequestHandoverRequest) (*arbiterv1.RequestHandoverResponse, error) {
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	from, ok := d.app[q.GetFrom()]
	switch {
	case !d.holds(q.GetHolder(), q.GetToken()) && d.fault != "anybody moves duty":
		return &arbiterv1.RequestHandoverResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN)}, nil
	case !ok:
		return &arbiterv1.RequestHandoverResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_UNKNOWN_REPLICA)}, nil
	case !from.works:
		return &arbiterv1.RequestHandoverResponse{}, nil
	}
	for _, to := range q.GetCandidates() {
		_, leased := d.rec.Leases[to]
		if p, ok := d.app[to]; ok && !p.works && (!leased || d.fault == "duty is handed to a leased replica") {
			if d.fault != "a handover is only said" {
				from.works, p.works = false, true
			}
			d.save()
			return &arbiterv1.RequestHandoverResponse{Successor: to}, nil
		}
	}
	return &arbiterv1.RequestHandoverResponse{Refusal: no(arbiterv1.RefusalReason_REFUSAL_REASON_NO_SUCCESSOR)}, nil
}

func (d *double) ForceReleaseLease(_ context.Context, q *arbiterv1.ForceReleaseLeaseRequest) (*arbiterv1.ForceReleaseLeaseResponse, error) {
	if err := d.enter(q.GetGroup()); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	l, ok := d.rec.Leases[q.GetReplica()]
	if !ok {
		return &arbiterv1.ForceReleaseLeaseResponse{}, nil
	}
	was := wire(q.GetReplica(), l)
	if !l.Pinned || d.fault != "force stops at pins" {
		delete(d.rec.Leases, q.GetReplica())
	}
	d.save()
	return &arbiterv1.ForceReleaseLeaseResponse{Released: was}, nil
}
