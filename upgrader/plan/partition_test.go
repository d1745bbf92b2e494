package plan

import "testing"

func TestPartition(t *testing.T) {
	run(t, []test{
		{
			name: "a foreign template write is answered by raising the partition first",
			world: func() *World {
				w := rollout(3)
				w.pod(2).chosen()
				w.web().Partition, w.web().Observed, w.web().TemplateSeen = 2, false, false
				return w
			},
			want: []string{"apply web partition 3 (WaitingForKruise)"}, reason: Undoing, says: "from 2 to 3",
		},
		{
			name: "while Kruise has not seen the template a parked partition needs no write",
			world: func() *World {
				w := rollout(3)
				w.web().Partition, w.web().Observed, w.web().TemplateSeen = Parked, false, false
				return w
			},
			reason: WaitingForKruise,
		},
		{
			name: "the partition is lowered by exactly the selected replicas",
			world: func() *World {
				w := rollout(5)
				w.Policy.MaxUnavailable = 2
				w.work(0, 2, 4)
				w.pod(1).grant()
				w.pod(3).grant()
				return w
			},
			want: []string{"apply web partition 3 (Selecting)"}, reason: Selecting, says: "web-1",
		},
		{
			name: "replicas that are upgraded already are not protected again",
			world: func() *World {
				w := rollout(5)
				w.work(0, 1, 2)
				for _, j := range []int{1, 3} {
					w.pod(j).Revision, w.pod(j).Verified = "v2", "v2"
				}
				w.pod(4).grant()
				w.web().Partition = 3
				return w
			},
			want: []string{"apply web partition 2 (Selecting)"}, reason: Selecting,
		},
		{
			name:   "a partition is not lowered while Kruise has not seen the last one",
			world:  func() *World { w := rollout(3); w.pod(2).grant(); w.web().Observed = false; return w },
			reason: WaitingForKruise,
		},
		{
			name:   "a partition is not lowered for a lease that may have run out",
			world:  func() *World { w := rollout(2); w.pod(1).grant().Lease.Valid = false; return w },
			reason: WaitingForLease, says: "web-1",
		},
		{
			name: "one batch is lowered together",
			world: func() *World {
				w := rollout(3)
				w.Policy.MaxUnavailable = 2
				w.pod(2).grant()
				w.pod(1).lease()
				return w
			},
			want: []string{"patch web-1 grant=true note=L-web-1"}, reason: Draining,
		},
		{
			name: "a replica that drains behind its gate does not hold up the rest of its batch",
			world: func() *World {
				w := rollout(3)
				w.Policy.MaxUnavailable = 2
				w.pod(2).grant()
				w.pod(1).gated(false).note()
				return w
			},
			want: []string{"apply web partition 2 (Selecting)"}, reason: Draining,
		},
		{
			name:   "a lowered partition stays for a released replica",
			world:  func() *World { w := rollout(2); w.pod(1).release(); w.web().Partition = 1; return w },
			reason: Updating, says: "web-1",
		},
		{
			name: "a replica that was chosen though it is not ours makes us take back those not yet released",
			world: func() *World {
				w := rollout(3)
				w.pod(2).grant()
				w.pod(0).State = StatePreparingUpdate
				w.web().Partition = 2
				return w
			},
			want: []string{"apply web partition 3 (WaitingForKruise)"}, reason: Undoing,
		},
		{
			name: "what is left of a wrong choice is written back once the partition protects it",
			world: func() *World {
				w := rollout(3)
				w.pod(2).grant()
				w.pod(0).State = StatePreparingUpdate
				return w
			},
			want: []string{
				"patch web-0 grant=false state=Normal note=",
				"apply web partition 2 (Selecting)",
			},
			reason: Undoing,
		},
		{
			name: "the end of a rollout waits for Kruise to conclude it",
			world: func() *World {
				w := rollout(2)
				w.complete()
				w.web().CurrentRevision, w.web().Partition = "v1", 0
				return w
			},
			reason: WaitingForKruise, says: "concluded",
		},
		{
			name: "a standby that is never ready does not keep the current revision back",
			world: func() *World {
				w := rollout(2)
				w.complete()
				w.web().CurrentRevision, w.web().Partition = "v1", 0
				w.pod(1).Ready = false
				return w
			},
			want: []string{"currentRevision web v2"}, reason: Finishing,
		},
		{
			name:  "the partition is parked when every replica is upgraded",
			world: func() *World { w := rollout(2); w.complete(); w.web().Partition = 0; return w },
			want:  []string{"apply web partition 2147483647 (Finishing) proven v2"}, reason: Finishing,
		},
		{
			name:   "a complete plan has nothing to do",
			world:  func() *World { w := rollout(2); w.complete(); return w },
			reason: Complete, says: "all 2 replicas are upgraded",
		},
		{
			name:   "an empty set is complete",
			world:  func() *World { w := rollout(0); w.complete(); return w },
			reason: Complete,
		},
	})
}
