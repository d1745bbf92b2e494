package sim

import (
	"fmt"
	"strings"
	"time"
)

// This file is the model of the kubelets and of what decides over pods when their node is
// lost. Paths are those of k8s.io/kubernetes v1.34.4. How long a kubelet waits before it tries
// again is left to the order of events; the waits of the control plane are shortened.

// kubelet does one thing to a pod. A container restarts in place when its image changes.
func (s *Sim) kubelet(p Pod) {
	if s.lost(p) {
		s.unreachable(p)
		return
	}
	now := s.read(s.clocks.nodes).Truncate(time.Second)
	switch {
	case p.Terminating:
		s.ends(p)
		s.api.remove(p.Name)
		s.tell("kubelet", "%s is gone", p.Name)
	case p.Failed: // it has been evicted, and Kruise removes it
	case p.Running != "" && p.Running != p.Image:
		s.interrupted(p)
		s.ends(p)
		s.change(p.Name, "kubelet", "stops "+p.Running, func(q *Pod) { q.Running, q.ContainersReady, q.Ready = "", false, false })
	case p.Running != "" && p.Crashes > 0:
		s.ends(p)
		s.change(p.Name, "kubelet", "its container ends: CrashLoopBackOff", func(q *Pod) {
			q.Running, q.ContainersReady, q.Ready, q.Waiting = "", false, false, crashLoop
			q.Crashes--
		})
	case p.Running == "":
		s.starts(p, now)
	case p.ContainersReady && s.now.Before(p.UnwellUntil):
		// A probe fails: ContainersReady goes, and Ready with it (pkg/kubelet/status/generate.go:46, :122).
		s.change(p.Name, "kubelet", "its container is not ready any more", func(q *Pod) { q.ContainersReady, q.Ready = false, false })
	case !p.ContainersReady && s.now.Before(p.UnwellUntil):
	case !p.ContainersReady:
		s.change(p.Name, "kubelet", "its container is ready", func(q *Pod) { q.ContainersReady, q.FitSince = true, now })
	default:
		ready := p.fit() && (!p.Gated || p.Gate == "True")
		if ready != p.Ready {
			s.change(p.Name, "kubelet", fmt.Sprintf("ready: %t", ready), func(q *Pod) { q.Ready = ready })
		}
	}
}

// Why a container waits (pkg/kubelet/images/image_manager.go:291, pkg/kubelet/kuberuntime,
// doBackOff). As long as a container waits for an image its status names what ran last.
const (
	imagePull = "ImagePullBackOff"
	crashLoop = "CrashLoopBackOff"
)

// starts starts a container, if its image can be had.
func (s *Sim) starts(p Pod, now time.Time) {
	switch {
	case broken(p.Image): // it never starts
	case p.Ran != p.Image && s.now.Before(s.noPulls) && p.Waiting == imagePull:
	case p.Ran != p.Image && s.now.Before(s.noPulls): // one that ran here is on the node
		s.change(p.Name, "kubelet", "cannot pull "+p.Image+" now", func(q *Pod) { q.Waiting = imagePull })
	case crashing(p.Image) && p.Waiting == crashLoop:
	case crashing(p.Image): // it ends at once, again and again
		s.change(p.Name, "kubelet", "cannot keep up "+p.Image, func(q *Pod) { q.Ran, q.Waiting = q.Image, crashLoop })
	default:
		s.change(p.Name, "kubelet", "starts "+p.Image, func(q *Pod) {
			q.Running, q.Started, q.Waiting = q.Image, now, ""
			if q.Ran == "" || !strings.HasPrefix(q.Image, "samedigest") {
				q.Ran = q.Image
			}
		})
	}
}

// ends is the end of the application in a pod.
func (s *Sim) ends(p Pod) {
	s.arb.leave(p.Name, p.UID)
	delete(s.apps, p.UID)
}

// node is a machine of which pods are lost together.
type node struct {
	// lost since then, and back at back; zero: it is there.
	since, back time.Time
	// dark: it has no power, so that nothing runs on it. Otherwise it is only cut off, and its
	// applications go on until they find that they cannot renew what they were told.
	dark bool
}

// How long a node must be silent until its pods are taken for not ready, and until they are
// removed: 40 s and 5 minutes by default (pkg/controller/nodelifecycle, and
// plugin/pkg/admission/defaulttolerationseconds).
const (
	quiet   = 4 * time.Second
	evicted = 12 * time.Second
)

// lost says whether nobody hears of the node of a pod.
func (s *Sim) lost(p Pod) bool {
	return p.Node < len(s.nodes) && !s.nodes[p.Node].since.IsZero()
}

// schedule chooses the node of a new pod.
func (s *Sim) schedule(p *Pod) {
	if len(s.nodes) == 0 {
		return
	}
	p.Node = ordinal(p.Name) % len(s.nodes)
	for range s.nodes {
		if !s.lost(*p) {
			return
		}
		p.Node = (p.Node + 1) % len(s.nodes)
	}
}

// unreachable is what the control plane makes of a pod whose node is lost. The last status
// stays as it was, except for one condition: Ready (pkg/controller/util/node/controller_utils.go:121,
// MarkPodsNotReady). Then the pod is deleted (pkg/controller/tainteviction), and stays, as no
// kubelet says that it has ended.
func (s *Sim) unreachable(p Pod) {
	n := &s.nodes[p.Node]
	switch away := s.now.Sub(n.since); {
	case !s.now.Before(n.back):
		s.returns(p.Node)
	case away < quiet:
	case p.Ready:
		s.arb.leave(p.Name, p.UID) // nothing comes through this connection any more
		s.change(p.Name, "nodes", "its node is silent: not ready", func(q *Pod) { q.Ready = false })
	case away >= evicted && !p.Terminating:
		s.change(p.Name, "nodes", "its node is silent: the pod is deleted", func(q *Pod) { q.Terminating = true })
	}
}

// returns is what a kubelet finds that is back: without power nothing runs any more, and what
// runs without a pod is ended.
func (s *Sim) returns(i int) {
	s.tell("nodes", "node %d is back", i)
	dark := s.nodes[i].dark
	s.nodes[i] = node{}
	for _, name := range names(s.api.pods) {
		if p := s.api.pods[name]; dark && p.Node == i && p.Running != "" {
			s.change(name, "kubelet", "finds that its container has ended", func(q *Pod) {
				q.Running, q.ContainersReady, q.Ready = "", false, false
			})
		}
	}
	for uid, a := range s.apps {
		if p, ok := s.api.pods[a.name]; !ok || p.UID != uid {
			delete(s.apps, uid)
		}
	}
}

// loseNode cuts a node off, or takes its power away.
func (s *Sim) loseNode(i int, dark bool, away time.Duration) {
	s.nodes[i] = node{since: s.now, back: s.now.Add(away), dark: dark}
	s.tell("chaos", "node %d is lost; without power: %t", i, dark)
	for _, name := range names(s.api.pods) {
		p := s.api.pods[name]
		if p.Node != i {
			continue
		}
		if w := s.apps[p.UID]; w != nil {
			w.answer = nil // it does not come any more
		}
		if dark {
			delete(s.apps, p.UID)
		}
	}
}

// someNode loses a node, if all are there: what falls away at the same time is left to others.
func (s *Sim) someNode() bool {
	for i := range s.nodes {
		if !s.nodes[i].since.IsZero() {
			return false
		}
	}
	if len(s.nodes) == 0 {
		return false
	}
	s.loseNode(s.rnd.IntN(len(s.nodes)), s.chance(2), time.Duration(s.rnd.IntN(40))*time.Second)
	return true
}

// removeByForce is what people do about a pod that does not go: from then on nobody knows of
// it, whatever may still run.
func (s *Sim) removeByForce() (did bool) {
	s.somePod(func(p Pod) {
		if did = p.Terminating && s.lost(p); did {
			s.forced(p)
		}
	})
	return did
}

func (s *Sim) forced(p Pod) {
	s.tell("user", "removes %s by force", p.Name)
	s.api.remove(p.Name)
}

// evict is what a kubelet does that is short of something: the pod has failed for good
// (pkg/kubelet/eviction/eviction_manager.go:618).
func (s *Sim) evict() (did bool) {
	s.somePod(func(p Pod) {
		if did = s.cfg.Kubelets && !p.Terminating && !p.Failed && !s.lost(p); did {
			s.evictPod(p)
		}
	})
	return did
}

func (s *Sim) evictPod(p Pod) {
	s.ends(p)
	s.change(p.Name, "kubelet", "evicts it: it has failed", func(q *Pod) {
		q.Failed, q.Running, q.ContainersReady, q.Ready, q.Waiting = true, "", false, false, ""
	})
}

// crash lets a container end once, or some times one after the other.
func (s *Sim) crash() (did bool) {
	s.somePod(func(p Pod) {
		if did = s.cfg.Kubelets && p.Running != "" && p.Crashes == 0; did {
			n := 1 + s.rnd.IntN(3)
			s.change(p.Name, "chaos", fmt.Sprintf("its container will end %d times", n), func(q *Pod) { q.Crashes = n })
		}
	})
	return did
}

// unwell lets the readiness of a container go, and come back: the application goes on.
func (s *Sim) unwell() (did bool) {
	s.somePod(func(p Pod) {
		if did = s.cfg.Kubelets && p.ContainersReady; did {
			until := s.now.Add(time.Duration(1+s.rnd.IntN(20)) * time.Second)
			s.change(p.Name, "chaos", "its probe fails for a while", func(q *Pod) { q.UnwellUntil = until })
		}
	})
	return did
}

// noImages lets no image be pulled for a while.
func (s *Sim) noImages() bool {
	if !s.cfg.Kubelets {
		return false
	}
	s.noPulls = s.now.Add(time.Duration(1+s.rnd.IntN(90)) * time.Second)
	s.tell("chaos", "no image can be pulled for %v", s.noPulls.Sub(s.now))
	return true
}

// well ends what is wrong with nodes and kubelets soon.
func (s *Sim) well() {
	s.noPulls, s.refuses = time.Time{}, time.Time{}
	for i := range s.nodes {
		if n := &s.nodes[i]; n.back.After(s.now.Add(evicted)) {
			n.back = s.now.Add(evicted)
		}
	}
}

// worksAs says whether any application works under a name, whatever pods there are.
func (s *Sim) worksAs(name string) bool {
	for _, a := range s.apps {
		if a.name == name && a.works(s.now) {
			return true
		}
	}
	return false
}
