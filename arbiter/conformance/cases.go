package conformance

import "slices"

// Case is one thing that an arbiter is tried with.
type Case struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Tells what is tried, in a sentence.
	Tells string `json:"tells"`
	// Clauses that it checks, beside those that hold for any answer: ERR-1, LIST-1, LIST-4, LIST-5.
	Clauses []string `json:"clauses"`
	// Needs are the verbs of the driver without which it is skipped.
	Needs []string `json:"needs,omitempty"`

	run func(*check)
}

// Cases returns all cases, in the order in which they run.
func Cases() []Case { return slices.Clone(cases) }

// Verbs of a driver, as in Case.Needs.
const (
	verbDuty     = "set-duty"
	verbServing  = "set-serving"
	verbRecreate = "recreate"
	verbRestart  = "restart"
	verbOutsider = "outsider"
)

func needs(verbs ...string) []string { return verbs }

func clauses(ids ...string) []string { return ids }

var cases = slices.Concat(listingCases(), leasingCases(), endingCases(), loadCases(), handoverCases())

func listingCases() []Case {
	return []Case{
		{
			"capabilities", Listing, "The group's capabilities are told, those of no group are not",
			clauses("CAP-1", "ERR-4", "ERR-5"), nil, tryCapabilities,
		},
		{
			"state", Listing, "A state is one moment of the whole group, and a later one is later",
			clauses("LIST-1", "LIST-2", "LIST-4"), nil, tryState,
		},
		{
			"watch-first", Listing, "A watch begins with the whole state, again and again",
			clauses("WATCH-1"), nil, tryWatchFirst,
		},
		{
			"listing-garbage", Listing, "Garbage is answered by an error, and the next one is served",
			clauses("ERR-2", "ERR-3", "ERR-7", "ERR-8"), nil, tryListingGarbage,
		},
		{
			"flip-seen", Listing, "A replica that begins to work is not idle any more, in the list and in a watch",
			clauses("LIST-2", "WATCH-2"), needs(verbDuty), tryFlipSeen,
		},
		{
			"recreated-seen", Listing, "Another instance behind a name is seen",
			clauses("LIST-6"), needs(verbRecreate), tryRecreatedSeen,
		},
	}
}

func leasingCases() []Case {
	return []Case{
		{
			"adopt-again", Leasing, "The same leader adopts with the same token, another one with a higher, an earlier one not at all",
			clauses("ADOPT-1", "ADOPT-2", "ADOPT-3"), nil, tryAdoptAgain,
		},
		{
			"adopt-fences", Leasing, "Adoption makes the old tokens stale, for every call",
			clauses("ADOPT-1", "ADOPT-4", "ADOPT-7"), nil, tryAdoptFences,
		},
		{
			"adopt-first", Leasing, "Whoever has not adopted gets no lease",
			clauses("ADOPT-5"), nil, tryAdoptFirst,
		},
		{
			"known-leases", Leasing, "Leases that the caller claims are not believed while there is a record",
			clauses("ADOPT-6"), nil, tryKnownLeases,
		},
		{
			"acquire-order", Leasing, "Candidates are granted in their order, max of them, and each is answered",
			clauses("GRANT-5", "GRANT-8", "GRANT-9"), nil, tryAcquireOrder,
		},
		{
			"acquire-duplicate", Leasing, "A request that arrives twice, or many times at once, gets the same grants and no more",
			clauses("GRANT-6"), nil, tryAcquireDuplicate,
		},
		{
			"acquire-late", Leasing, "What a request got that was granted late counts for the next one",
			clauses("GRANT-9", "GRANT-10"), nil, tryAcquireLate,
		},
		{
			"acquire-reordered", Leasing, "A request of an earlier leader that arrives late grants nothing",
			clauses("ADOPT-4", "GRANT-6"), nil, tryAcquireReordered,
		},
		{
			"acquire-idle", Leasing, "A working replica is refused",
			clauses("GRANT-1"), nil, tryAcquireIdle,
		},
		{
			"acquire-instance", Leasing, "A replica whose instance is another one is refused",
			clauses("GRANT-2"), nil, tryAcquireInstance,
		},
		{
			"acquire-one", Leasing, "A name is leased by one holder at a time",
			clauses("GRANT-3", "REL-1"), nil, tryAcquireOne,
		},
		{
			"tokens-grow", Leasing, "Tokens grow with each grant and adoption, ids never come back",
			clauses("GRANT-7", "ADOPT-1"), nil, tryTokensGrow,
		},
		{
			"quorum-edge", Leasing, "As many leases as floor and max_leased allow are granted, and not one more",
			clauses("GRANT-4", "GRANT-5", "LIST-5"), nil, tryQuorumEdge,
		},
		{
			"quorum-edge-pin", Leasing, "A pin below the floor is refused, and the lease stays",
			clauses("PIN-3", "PIN-4"), needs(verbServing), tryQuorumEdgePin,
		},
		{
			"flip-leased", Leasing, "A leased replica that is called to duty is kept from it, or is idle no more",
			clauses("BAN-1", "BAN-2"), needs(verbDuty), tryFlipLeased,
		},
		{
			"flip-pin", Leasing, "After a flip the pin is refused, and the lease stays",
			clauses("PIN-1", "PIN-4"), needs(verbDuty), tryFlipPin,
		},
		{
			"failover-ban", Leasing, "When a working replica fails, duty goes to no leased one",
			clauses("BAN-1"), needs(verbServing), tryFailoverBan,
		},
		{
			"recreated-pin", Leasing, "A pod that is created anew keeps its lease, and is not pinned as the old one",
			clauses("PIN-2", "PIN-4", "BAN-1"), needs(verbRecreate), tryRecreatedPin,
		},
		{
			"pin-instance", Leasing, "A pin for another instance is refused, and the lease stays",
			clauses("PIN-2", "PIN-4"), nil, tryPinInstance,
		},
		{
			"pin-again", Leasing, "A pin that is repeated succeeds",
			clauses("PIN-6", "RENEW-2"), nil, tryPinAgain,
		},
	}
}

func endingCases() []Case {
	return []Case{
		{
			"renew-keeps", Leasing, "A lease that is renewed lives on",
			clauses("TTL-1"), nil, tryRenewKeeps,
		},
		{
			"renew-order", Leasing, "Each lease of a renewal is answered, in order",
			clauses("RENEW-1", "RENEW-2"), nil, tryRenewOrder,
		},
		{
			"expired", Leasing, "A lease that is not renewed is lost, and its holder can still give it back",
			clauses("TTL-2", "TTL-4"), nil, tryExpired,
		},
		{
			"stolen", Leasing, "A lease that another has by now is not touched by its former holder",
			clauses("REL-2", "PIN-7", "RENEW-2"), nil, tryStolen,
		},
		{
			"released", Leasing, "A lease that was released is neither renewed nor pinned; to release it again succeeds",
			clauses("REL-1", "REL-2", "RENEW-2", "PIN-7"), nil, tryReleased,
		},
		{
			"forced", Leasing, "An administrator ends a pin; its holder learns that it is lost",
			clauses("FORCE-1", "TTL-4"), nil, tryForced,
		},
		{
			"retired", Leasing, "A holder retires when it has no leases, and never comes back",
			clauses("RETIRE-1", "RETIRE-2", "RETIRE-3", "ADOPT-4"), nil, tryRetired,
		},
		{
			"pin-outlives-ttl", Leasing, "A pin outlives its TTL",
			clauses("PIN-5"), nil, tryPinOutlivesTTL,
		},
		{
			"restart-keeps", Leasing, "A restart forgets no lease, no pin, no token, no retired holder",
			clauses("DUR-1", "PIN-5", "GRANT-6", "GRANT-7"), needs(verbRestart), tryRestartKeeps,
		},
		{
			"clock-ahead", Leasing, "A process whose clock is an hour ahead ends no lease early",
			clauses("TTL-1", "TTL-3", "PIN-5"), needs(verbRestart), tryClockAhead,
		},
		{
			"clock-behind", Leasing, "A process whose clock is an hour behind lets leases run out in time",
			clauses("TTL-2", "TTL-3", "GRANT-7"), needs(verbRestart), tryClockBehind,
		},
		{
			"outsider", Leasing, "Who may not lease is refused by every call that leases",
			clauses("SEC-2"), needs(verbOutsider), tryOutsider,
		},
	}
}

func loadCases() []Case {
	return []Case{
		{
			"watch-gap", Leasing, "A watch that broke off and begins again shows what has happened meanwhile",
			clauses("WATCH-1", "WATCH-2", "LIST-3"), nil, tryWatchGap,
		},
		{
			"watch-slow", Leasing, "A watch that is not read stops nobody, and shows the last state in the end",
			clauses("WATCH-2", "WATCH-3"), nil, tryWatchSlow,
		},
		{
			"garbage", Leasing, "Each field beyond its limit is refused, and changes nothing",
			clauses("ERR-2", "ERR-3", "ERR-7", "ERR-8"), nil, tryGarbage,
		},
		{
			"concurrent", Leasing, "The history of several upgraders at once is linearizable",
			clauses("LIN-1", "LIST-3", "GRANT-3", "GRANT-4", "GRANT-7"), nil, tryConcurrent,
		},
		{
			"overload", Leasing, "Under a burst of calls every promise holds, and afterwards it is served as before",
			clauses("ERR-6", "GRANT-3", "GRANT-4"), nil, tryOverload,
		},
	}
}

func handoverCases() []Case {
	return []Case{
		{
			"handover", Handover, "Duty moves from a working replica to a candidate, and both say so",
			clauses("HAND-1", "HAND-2"), nil, tryHandover,
		},
		{
			"handover-leased", Handover, "Duty is never handed to a leased replica",
			clauses("HAND-1", "HAND-3", "BAN-1"), nil, tryHandoverLeased,
		},
		{
			"handover-refused", Handover, "Duty does not move for an old leader, from a stranger, or from an idle replica",
			clauses("HAND-3", "HAND-4", "ADOPT-4"), nil, tryHandoverRefused,
		},
	}
}
