package harness

import (
	"context"
	"slices"
	"sync"
	"time"

	arbiter "offduty.dev/arbiter/client"
)

// Shift is a time during which a replica of the application worked, as it saw itself.
type Shift struct {
	Pod, UID string
	From     time.Time
	// To is zero while it still works.
	To time.Time
}

// Attendants are the application: one replica for each pod, that attends at the arbiter
// while its containers run, and notes when it works. A replica whose pod is terminating
// stops; one whose container is restarted begins anew.
type Attendants struct {
	client *arbiter.Client
	group  string
	prefix string
	// stopping is how long a replica goes on working after it was told to stop.
	stopping time.Duration

	mu      sync.Mutex
	shifts  []Shift
	lives   map[string]*attendance // by pod; also the one that is ending
	closed  bool
	wait    sync.WaitGroup
	errors  []error
	onShift func(Shift)
}

// attendance is one life of one replica.
type attendance struct {
	uid, container string
	cancel         context.CancelFunc
	ended          chan struct{}
}

// Attend starts the application in the namespace of h.
func Attend(ctx context.Context, h *History, client *arbiter.Client, namespace, group string, onShift func(Shift)) *Attendants {
	a := &Attendants{
		client: client, group: namespace + "/" + group, prefix: namespace + "/",
		stopping: 5 * time.Millisecond, lives: map[string]*attendance{}, onShift: onShift,
	}
	ctx = context.WithoutCancel(ctx)
	h.OnPod(func(p Pod) { a.follow(ctx, p) })
	return a
}

// follow starts and ends replicas as their containers do.
func (a *Attendants) follow(ctx context.Context, p Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.lives[p.Name]
	alive := p.Runs() && !p.Terminating
	if last != nil && alive && last.uid == p.UID && last.container == p.Containers[0].ID {
		return
	}
	if last != nil && (p.UID == last.uid || alive) {
		last.cancel()
	}
	if !alive || a.closed {
		return
	}
	life, cancel := context.WithCancel(ctx)
	next := &attendance{uid: p.UID, container: p.Containers[0].ID, cancel: cancel, ended: make(chan struct{})}
	a.lives[p.Name] = next
	a.wait.Go(func() {
		defer close(next.ended)
		if last != nil {
			<-last.ended
		}
		a.live(life, p.Name, p.UID)
	})
}

// live is the life of one replica.
func (a *Attendants) live(ctx context.Context, pod, uid string) {
	t, err := arbiter.NewAttendant(arbiter.AttendantConfig{
		Client: a.client, Group: a.group, Replica: a.prefix + pod, Instance: uid, Now: time.Now,
		Fit:     func() bool { return true },
		Work:    func(ctx context.Context) { a.work(ctx, pod, uid) },
		OnError: a.fail,
	})
	if err == nil {
		err = t.Run(ctx)
	}
	if err != nil {
		a.fail(err)
	}
}

// work is what a replica does on duty.
func (a *Attendants) work(ctx context.Context, pod, uid string) {
	a.mu.Lock()
	i := len(a.shifts)
	a.shifts = append(a.shifts, Shift{Pod: pod, UID: uid, From: time.Now()})
	begun := a.shifts[i]
	a.mu.Unlock()
	a.tell(begun)
	<-ctx.Done()
	// It takes a moment until it has really stopped; the arbiter has to wait for that.
	timer := time.NewTimer(a.stopping)
	<-timer.C
	a.mu.Lock()
	a.shifts[i].To = time.Now()
	ended := a.shifts[i]
	a.mu.Unlock()
	a.tell(ended)
}

func (a *Attendants) tell(s Shift) {
	if a.onShift != nil {
		a.onShift(s)
	}
}

func (a *Attendants) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errors = append(a.errors, err)
}

// Shifts returns all shifts so far, in the order in which they began.
func (a *Attendants) Shifts() []Shift {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.shifts)
}

// Working returns the names of the pods that work now, sorted.
func (a *Attendants) Working() []string {
	var out []string
	for _, s := range a.Shifts() {
		if s.To.IsZero() {
			out = append(out, s.Pod)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Errors returns why conversations with the arbiter broke off.
func (a *Attendants) Errors() []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.errors)
}

// Stop ends the application and waits for its end.
func (a *Attendants) Stop() {
	a.mu.Lock()
	a.closed = true
	for _, r := range a.lives {
		r.cancel()
	}
	a.mu.Unlock()
	a.wait.Wait()
}
