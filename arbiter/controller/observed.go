package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

// leasePeriod is how often a Lease is looked at. It must be seen renewed within its duration,
// which is 15 seconds by the custom of Kubernetes.
const leasePeriod = time.Second

// pollingOf is when a roster is to be looked at although nothing has happened; 0: never.
func pollingOf(ro *v1alpha1.Roster, v *duty.View) time.Duration {
	var soon time.Duration
	at := func(d time.Duration) {
		if soon == 0 || d < soon {
			soon = d
		}
	}
	if o := ro.Spec.Observed; o != nil && o.Lease != nil {
		at(leasePeriod)
	} else if o != nil && probingOf(o) != nil {
		// What a member said is taken over anew long before it is too old.
		at(time.Duration(probingOf(o).MaxAgeSeconds) * time.Second / 3)
	}
	if ro.Spec.Spread != nil && v != nil && unplaced(v) {
		at(nodesFor) // whether nodes may be read, or have their label, by then
	}
	return soon
}

// unplaced says whether the topology domain of a member is not known.
func unplaced(v *duty.View) bool {
	for _, r := range v.Rules.Replicas {
		if r.Domain == "" {
			return true
		}
	}
	return false
}

// probingOf says how often members are asked over the network; nil: they are not.
func probingOf(o *v1alpha1.ObservedDuty) *v1alpha1.Probing {
	switch {
	case o.HTTP != nil:
		return &o.HTTP.Probe
	case o.GRPC != nil:
		return &o.GRPC.Probe
	case o.Etcd != nil:
		return &o.Etcd.Probe
	}
	return nil
}

// application makes the source that asks the members of a roster, what moves their duty (nil:
// nothing can), and says what ends its connections.
func (r *Reconciler) application(namespace string, o *v1alpha1.ObservedDuty) (s application.Source, moves application.Handover, end func()) {
	if o.GRPC != nil {
		g := source.NewGRPC(*o.GRPC, r.credentials(namespace, o.GRPC.TLS))
		if o.GRPC.Handover {
			moves = g
		}
		return g, moves, func() {}
	}
	if o.Etcd != nil {
		e := source.NewEtcd(*o.Etcd, r.credentials(namespace, o.Etcd.TLS))
		return e, e, e.Close
	}
	h := source.NewHTTP(*o.HTTP, r.credentials(namespace, o.HTTP.TLS))
	if o.HTTP.Handover != nil {
		moves = h
	}
	return h, moves, h.Close
}

// see makes of pods what a group looks at.
type see func(context.Context, map[string]*corev1.Pod) map[string]roster.Pod

// observe completes the settings of a roster whose application decides who works, and
// returns how its pods are seen.
func (r *Reconciler) observe(ro *v1alpha1.Roster, settings *duty.Settings) see {
	if ro.Spec.Observed == nil {
		r.sources.stop(client.ObjectKeyFromObject(ro))
		return seeing(nil)
	}
	ro = ro.DeepCopy()
	said, look, err := r.source(ro)
	if err != nil {
		settings.Broken = err.Error()
	}
	settings.HandOver = r.handOver(ro)
	settings.Roster.Observed.HandsOver = settings.HandOver != nil
	settings.Look = func(ctx context.Context) (map[string]roster.Pod, error) {
		live, err := members(ctx, r.Live, ro)
		if err != nil {
			return nil, err
		}
		return look(ctx, live), nil
	}
	return said
}

// source returns how the pods of an observed roster are seen: as was said last, and as that is
// looked at anew. If that cannot be, without anything that is said of their duty.
func (r *Reconciler) source(ro *v1alpha1.Roster) (said, look see, err error) {
	key := client.ObjectKeyFromObject(ro)
	o := ro.Spec.Observed
	if probingOf(o) != nil {
		p := r.sources.prober(key, o, func() probed { return r.probe(key, o) })
		follow := func(_ context.Context, all map[string]application.Member) map[string]roster.Sight {
			return p.Follow(all)
		}
		return seeing(asking(r.LoopbackMembers, follow)), seeing(asking(r.LoopbackMembers, p.Look)), nil
	}
	r.sources.stop(key)
	switch {
	case o.Pods != nil:
		pods, err := r.sources.expression(key, o.Pods.Working)
		if err != nil {
			return seeing(nil), seeing(nil), fmt.Errorf("spec.observed.pods.working: %w", err)
		}
		look = seeing(func(_ context.Context, all map[string]*corev1.Pod) map[string]roster.Sight {
			sights := make(map[string]roster.Sight, len(all))
			for name, p := range all {
				sights[name] = pods.See(p)
			}
			return sights
		})
		return look, look, nil
	case o.Lease != nil:
		held := r.sources.lease(key, o.Lease.Name)
		look = seeing(func(ctx context.Context, all map[string]*corev1.Pod) map[string]roster.Sight {
			return r.byLease(ctx, types.NamespacedName{Namespace: ro.Namespace, Name: o.Lease.Name}, held, all)
		})
		return look, look, nil
	}
	return seeing(nil), seeing(nil), errors.New("spec.observed: it has no source that this arbiter knows")
}

// probe starts to ask the members of a roster.
func (r *Reconciler) probe(key types.NamespacedName, o *v1alpha1.ObservedDuty) probed {
	s, moves, end := r.application(key.Namespace, o)
	ctx, cancel := context.WithCancel(r.Base)
	p := source.NewProber(s, *probingOf(o), r.Now, func() { r.wake(ctx, key) })
	r.sources.wg.Go(func() {
		defer end()
		p.Run(ctx)
	})
	return probed{observed: o, prober: p, handover: moves, stop: cancel}
}

// handOver returns how the application of a roster is asked to move duty; nil: it cannot be.
func (r *Reconciler) handOver(ro *v1alpha1.Roster) duty.HandOver {
	moves := r.sources.handover(client.ObjectKeyFromObject(ro))
	if moves == nil {
		return nil
	}
	return func(ctx context.Context, from, to string) error {
		pods, err := members(ctx, r.Live, ro)
		if err != nil {
			return fmt.Errorf("%w: %w", application.ErrRefused, err)
		}
		var both []application.Member
		for _, name := range []string{from, to} {
			p, ok := pods[name]
			if !ok {
				return fmt.Errorf("%w: %s is gone", application.ErrRefused, name)
			}
			m, err := source.MemberOf(p, r.LoopbackMembers)
			if err != nil {
				return fmt.Errorf("%w: %s: %w", application.ErrRefused, name, err)
			}
			both = append(both, m)
		}
		return moves.HandOver(ctx, both[0], both[1])
	}
}

// wake asks for a reconcile.
func (r *Reconciler) wake(ctx context.Context, key types.NamespacedName) {
	obj := &v1alpha1.Roster{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	select {
	case r.changed <- event.GenericEvent{Object: obj}:
	case <-ctx.Done():
	}
}

// asking makes members of pods, for those who ask them. One that must not be asked is unknown.
func asking(loopback bool, ask func(context.Context, map[string]application.Member) map[string]roster.Sight) func(context.Context, map[string]*corev1.Pod) map[string]roster.Sight {
	return func(ctx context.Context, pods map[string]*corev1.Pod) map[string]roster.Sight {
		all, refused := make(map[string]application.Member, len(pods)), map[string]roster.Sight{}
		for name, p := range pods {
			m, err := source.MemberOf(p, loopback)
			if err != nil {
				refused[name] = roster.Sight{Instance: string(p.UID), Duty: roster.Unknown, Why: err.Error()}
				continue
			}
			all[name] = m
		}
		said := ask(ctx, all)
		if said == nil {
			return refused
		}
		maps.Copy(said, refused)
		return said
	}
}

// byLease reads a Lease from the API server: a cache would have to follow those of all nodes.
func (r *Reconciler) byLease(ctx context.Context, key types.NamespacedName, held *source.Lease, pods map[string]*corev1.Pod) map[string]roster.Sight {
	var l coordinationv1.Lease
	// What is read was so after this moment, and counts from it.
	now := r.Now()
	err := r.Live.Get(ctx, key, &l)
	if err == nil {
		return held.See(&l, pods, now)
	}
	sights := make(map[string]roster.Sight, len(pods))
	for name, p := range pods {
		sights[name] = roster.Sight{Instance: string(p.UID), Duty: roster.Unknown, Why: fmt.Sprintf("read lease %s: %v", key, err)}
	}
	return sights
}

// seeing sees pods, with what a source says of them; nil: nothing.
func seeing(sights func(context.Context, map[string]*corev1.Pod) map[string]roster.Sight) see {
	return func(ctx context.Context, pods map[string]*corev1.Pod) map[string]roster.Pod {
		var said map[string]roster.Sight
		if sights != nil {
			said = sights(ctx, pods)
		}
		seen := make(map[string]roster.Pod, len(pods))
		for name, p := range pods {
			pod := toPod(p)
			pod.Sight = said[name]
			seen[name] = pod
		}
		return seen
	}
}

// sources keeps what the sources of the rosters know: compiled expressions, when Leases were
// seen to be renewed, and what members said when they were asked.
type sources struct {
	mu      sync.Mutex
	pods    map[types.NamespacedName]compiled
	leases  map[types.NamespacedName]followed
	probers map[types.NamespacedName]probed
	// wg counts the probers that run.
	wg sync.WaitGroup
}

type probed struct {
	observed *v1alpha1.ObservedDuty
	prober   *source.Prober
	// handover moves duty; nil: nobody can be asked for that.
	handover application.Handover
	stop     func()
}

// prober returns that of a roster, and starts it anew if the roster has changed.
func (s *sources) prober(key types.NamespacedName, o *v1alpha1.ObservedDuty, start func() probed) *source.Prober {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.probers[key]; ok {
		if reflect.DeepEqual(p.observed, o) {
			return p.prober
		}
		p.stop()
	}
	p := start()
	if s.probers == nil {
		s.probers = map[types.NamespacedName]probed{}
	}
	s.probers[key] = p
	return p.prober
}

// handover is that of the application that is asked for a roster; nil: there is none.
func (s *sources) handover(key types.NamespacedName) application.Handover {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probers[key].handover
}

// stop ends the prober of a roster, if it has one.
func (s *sources) stop(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.probers[key]; ok {
		p.stop()
		delete(s.probers, key)
	}
}

type compiled struct {
	expression string
	pods       *source.Pods
	err        error
}

type followed struct {
	name  string
	lease *source.Lease
}

// expression returns the compiled expression of a roster.
func (s *sources) expression(key types.NamespacedName, expression string) (*source.Pods, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.pods[key]
	if !ok || c.expression != expression {
		c = compiled{expression: expression}
		c.pods, c.err = source.NewPods(expression)
		if s.pods == nil {
			s.pods = map[types.NamespacedName]compiled{}
		}
		s.pods[key] = c
	}
	return c.pods, c.err
}

// lease returns what is known of the Lease of a roster.
func (s *sources) lease(key types.NamespacedName, name string) *source.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.leases[key]
	if !ok || f.name != name {
		f = followed{name: name, lease: &source.Lease{}}
		if s.leases == nil {
			s.leases = map[types.NamespacedName]followed{}
		}
		s.leases[key] = f
	}
	return f.lease
}

// forget drops what is kept for a roster that is gone.
func (s *sources) forget(key types.NamespacedName) {
	s.stop(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, key)
	delete(s.leases, key)
}
