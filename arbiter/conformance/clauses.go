package conformance

// Clause is one obligation of docs/arbiter/SPEC.md.
type Clause struct {
	// ID is never given to another clause.
	ID string `json:"id"`
	// Text is what the specification says, word for word (TestSpecification).
	Text string `json:"text"`
}

// Clauses returns the specification, in its order.
func Clauses() []Clause { return append([]Clause(nil), specification...) }

// textOf returns what a clause says.
func textOf(id string) string {
	for _, c := range specification {
		if c.ID == id {
			return c.Text
		}
	}
	return "no clause has this id"
}

var specification = []Clause{
	{"ERR-1", "A policy's \"no\" MUST be a Refusal with a reason in an answer without error. A gRPC error MUST mean failure."},
	{"ERR-2", "A request outside the limits below MUST be answered INVALID_ARGUMENT and MUST change nothing."},
	{"ERR-3", "INVALID_ARGUMENT SHOULD name the fields in a google.rpc.BadRequest."},
	{"ERR-4", "A group that does not exist MUST be answered NOT_FOUND."},
	{"ERR-5", "A call that GetCapabilities does not promise MUST be answered UNIMPLEMENTED or by a refusal, and MUST change nothing."},
	{"ERR-6", "Under any load each call MUST be answered, by an answer or an error; what was promised MUST hold meanwhile, and the arbiter MUST serve again when the load is gone. UNAVAILABLE MUST mean that nothing was recorded."},
	{"ERR-7", "Fields that are not known MUST be ignored. An outcome that is not known MUST be answered INVALID_ARGUMENT."},
	{"ERR-8", "Bytes that are no message MUST be answered by an error, and MUST change nothing."},
	{"CAP-1", "GetCapabilities MUST answer for every group there is, and promise listing."},
	{"LIST-1", "A state MUST be one moment of the whole group: each replica once, by a name that is not empty; a lease MUST name the replica that carries it; serving MUST be the number of replicas that serve."},
	{"LIST-2", "A replica that works, or may work, MUST NOT be IDLE. What is not certain MUST be UNKNOWN."},
	{"LIST-3", "A state MUST show everything that was answered before the state was asked for."},
	{"LIST-4", "A state MUST have an epoch. Within one epoch a later state MUST NOT have a smaller revision, nor another state the same one; over a restart it SHOULD NOT."},
	{"LIST-5", "A replica that is leased MUST NOT count as serving."},
	{"LIST-6", "A replica's instance MUST change when something else runs under its name."},
	{"WATCH-1", "The first message of a watch MUST come at once and MUST be the whole state."},
	{"WATCH-2", "After a change a watch MUST send the whole state. States MAY be left out; the last one MUST be sent."},
	{"WATCH-3", "A client that does not read, or has gone, MUST NOT keep others from being served."},
	{"ADOPT-1", "An adoption in another term or by another identity MUST return a token above every token that the group has seen, and MUST raise the token of each lease of the holder to it."},
	{"ADOPT-2", "The same term and identity again MUST return the same token."},
	{"ADOPT-3", "An older term than the recorded one MUST be refused with STALE_TOKEN and MUST change nothing."},
	{"ADOPT-4", "After an adoption every call with an older token MUST be refused with STALE_TOKEN and MUST change nothing."},
	{"ADOPT-5", "AcquireLeases for a holder for whom nobody has adopted MUST be refused with STALE_TOKEN."},
	{"ADOPT-6", "While the arbiter has its record, known_leases MUST be ignored."},
	{"ADOPT-7", "An adoption MUST NOT touch leases of other holders."},
	{"GRANT-1", "A replica that is not IDLE MUST be refused with NOT_IDLE."},
	{"GRANT-2", "A replica whose instance is not the named one MUST be refused with INSTANCE_CHANGED."},
	{"GRANT-3", "A name MUST have one lease at most. Others MUST be refused with LEASED_BY_OTHER."},
	{"GRANT-4", "A grant MUST NOT leave fewer serving replicas than the floor (FLOOR), nor more leases than max_leased (MAX_LEASED), whoever asks at the same time. A replica that does not serve takes nothing from the floor."},
	{"GRANT-5", "A candidate that no rule refuses MUST be granted, in the order given, until max is reached."},
	{"GRANT-6", "While its grants last, a repeated request_id MUST return the same leases and MUST NOT grant more than max with the first."},
	{"GRANT-7", "The token of a grant MUST be above every token that the group has seen. The id of a lease MUST NOT be used again."},
	{"GRANT-8", "A name that the group does not have MUST be refused with UNKNOWN_REPLICA."},
	{"GRANT-9", "The answer MUST list the leases that the holder has among the candidates, and the refused ones with their reasons. Those beyond max MUST be in neither list."},
	{"GRANT-10", "What the holder has among the candidates already MUST count against max, whichever request it was granted to: a request that arrived late may have been granted meanwhile."},
	{"BAN-1", "From the answer on until the lease has ended the arbiter MUST NOT give duty to the name, be it by failover, handover or an administrator's wish."},
	{"BAN-2", "If the application lets a leased replica work all the same, the replica MUST stop being IDLE."},
	{"TTL-1", "A lease MUST NOT end by time before its TTL has passed since the grant, the last renewal or the adoption."},
	{"TTL-2", "A lease that was not renewed MUST be lost at twice its TTL: RenewLeases and PinLease MUST refuse it with LEASE_LOST."},
	{"TTL-3", "Time MUST be measured as it passes in the arbiter, never by comparing a clock with a recorded time. A new process counts from when it first saw the record."},
	{"TTL-4", "Until nothing of its holder can be under way any more, a lease that ran out MUST go on banning duty, and be shown as EXPIRED. The holder and an administrator MUST be able to end it."},
	{"RENEW-1", "RenewLeases MUST answer for each lease, in the order of the request."},
	{"RENEW-2", "A lease that is not there MUST be refused with LEASE_LOST. Renewing a pin MUST succeed."},
	{"PIN-1", "PinLease MUST look at duty again: a replica that is not IDLE MUST be refused with NOT_IDLE."},
	{"PIN-2", "If the replica's instance is not the named one, PinLease MUST refuse with INSTANCE_CHANGED."},
	{"PIN-3", "While fewer replicas than the floor serve, PinLease MUST refuse with FLOOR, unless the replica itself did not serve when it was leased."},
	{"PIN-4", "A refused pin MUST leave the lease as it was."},
	{"PIN-5", "No time MUST end a pin: only its holder's release, or an administrator."},
	{"PIN-6", "Pinning the same lease for the same instance again MUST succeed."},
	{"PIN-7", "A lease that is not there MUST be refused with LEASE_LOST."},
	{"REL-1", "ReleaseLease MUST end a lease or a pin. The name can have duty, or another lease, again."},
	{"REL-2", "Releasing a lease that is not there MUST succeed and MUST NOT touch the lease that its replica may have by now."},
	{"FORCE-1", "ForceReleaseLease MUST end a lease or pin whatever its token, and say which: renewing and pinning it are refused with LEASE_LOST from then on. Without a lease it MUST succeed. Who asked and why MUST be recorded."},
	{"RETIRE-1", "A holder that has leases MUST be refused with HOLDER_HAS_LEASES."},
	{"RETIRE-2", "Retiring a holder that is not known MUST succeed."},
	{"RETIRE-3", "Whoever adopts for a retired holder MUST be refused with HOLDER_RETIRED, as far back as the arbiter remembers."},
	{"DUR-1", "What an answer says MUST outlive the death of the arbiter's process at any moment after it: leases, pins, tokens, terms, retired holders."},
	{"DUR-2", "An arbiter that may have lost its record MUST say that the group is frozen, report UNKNOWN for every replica and grant nothing, until holders have adopted anew with the leases that they know."},
	{"LIN-1", "There MUST be one order of all calls that explains all answers, in which each call lies between its request and its answer."},
	{"HAND-1", "An accepted handover MUST name a successor from the candidates that is idle and has no lease, unless from has no duty or is giving it up already."},
	{"HAND-2", "An accepted handover MUST be carried out: from becomes IDLE, and its successor works. Should that turn out to be impossible, duties MUST go on saying what is true."},
	{"HAND-3", "If no candidate can take over, the arbiter MUST refuse with NO_SUCCESSOR; a name that the group does not have, with UNKNOWN_REPLICA. Duty MUST NOT move."},
	{"HAND-4", "If from has no duty, the answer MUST be without refusal and successor, and nothing MUST move."},
	{"SEC-1", "An arbiter that others than its own host can reach MUST use TLS and MUST know each caller, by a certificate or a token."},
	{"SEC-2", "Whoever may not lease in the group MUST be answered PERMISSION_DENIED or UNAUTHENTICATED by every call that changes leases or duty."},
	{"VER-1", "`offduty.arbiter.v1` changes by additions alone. An arbiter MUST treat what it does not know as not said, and a client MUST treat an unknown duty as UNKNOWN and an unknown reason as a refusal."},
}

// Unseen says why no case checks a clause; empty: one does.
func Unseen(id string) string { return unseen[id] }

var unseen = map[string]string{
	"DUR-2": "how a record is lost differs from arbiter to arbiter",
	"SEC-1": "an address on which nobody listens without TLS cannot be found from outside",
	"VER-1": "it binds those who change the protocol, and clients",
}
