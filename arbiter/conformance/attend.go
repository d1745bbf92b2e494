package conformance

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Application plays the replicas of a group at an arbiter that serves AttendanceService, and
// is the driver for it: the replicas do what they are told, except where a verb says otherwise.
type Application struct {
	members map[string]*member
	cancel  context.CancelFunc
	all     sync.WaitGroup
}

// member is one replica. It works on nothing, so that it has nothing to stop.
type member struct {
	api         arbiterv1.AttendanceServiceClient
	group, name string
	// wake is told when a verb has changed something.
	wake chan struct{}

	mu sync.Mutex
	// instance is what has the name now.
	instance string
	unfit    bool
	insists  bool
	// generation and duty are what the arbiter said last.
	generation int64
	duty       arbiterv1.Duty
}

// Attend begins to attend for replicas, until Close. instances names what runs as each of them:
// the pod's UID on Kubernetes.
func Attend(ctx context.Context, conn grpc.ClientConnInterface, group string, instances map[string]string) *Application {
	ctx, cancel := context.WithCancel(ctx)
	a := &Application{members: map[string]*member{}, cancel: cancel}
	for name, instance := range instances {
		m := &member{
			api: arbiterv1.NewAttendanceServiceClient(conn), group: group, name: name, instance: instance,
			wake: make(chan struct{}, 1), duty: arbiterv1.Duty_DUTY_IDLE,
		}
		a.members[name] = m
		a.all.Go(func() { m.live(ctx) })
	}
	return a
}

// Close ends all replicas.
func (a *Application) Close() {
	a.cancel()
	a.all.Wait()
}

// Driver returns the verbs that replicas can do by themselves: all but Restart. A replica that
// is made to work says that it works, whatever it was told, as if somebody had started it by hand.
func (a *Application) Driver() Driver {
	return Driver{
		SetDuty: func(_ context.Context, replica string, working bool) error {
			return a.change(replica, func(m *member) { m.insists = working })
		},
		SetServing: func(_ context.Context, replica string, serving bool) error {
			return a.change(replica, func(m *member) { m.unfit = !serving })
		},
		Recreate: func(_ context.Context, replica string) error {
			return a.change(replica, func(m *member) { m.instance += "'" })
		},
	}
}

// Become makes a replica attend as another instance: a pod that was created anew.
func (a *Application) Become(replica, instance string) error {
	return a.change(replica, func(m *member) { m.instance = instance })
}

func (a *Application) change(replica string, how func(*member)) error {
	m, ok := a.members[replica]
	if !ok {
		return fmt.Errorf("%s: %w: the kit does not attend for it", replica, ErrUnsupported)
	}
	m.mu.Lock()
	how(m)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default: // it will look anyway
	}
	return nil
}

// live holds one conversation after the other.
func (m *member) live(ctx context.Context) {
	for {
		m.converse(ctx)
		if !pause(ctx, again) {
			return
		}
	}
}

// converse holds one conversation, until it breaks off or another instance begins.
func (m *member) converse(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	stream, err := m.api.Attend(ctx)
	if err != nil {
		return
	}
	answers := make(chan *arbiterv1.AttendResponse)
	reading.Go(func() {
		defer close(answers)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case answers <- r:
			case <-ctx.Done():
				return
			}
		}
	})
	m.talk(ctx, stream, answers)
}

func (m *member) talk(ctx context.Context, stream arbiterv1.AttendanceService_AttendClient, answers <-chan *arbiterv1.AttendResponse) {
	beat := time.NewTimer(0)
	defer beat.Stop()
	q := m.report(nil)
	lifetime := time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case r, ok := <-answers:
			if !ok {
				return
			}
			lifetime = max(r.GetLifetime().AsDuration(), time.Second)
			if !m.heard(r) {
				continue
			}
		case <-m.wake:
		case <-beat.C:
		}
		if q = m.report(q); q == nil || stream.Send(q) != nil {
			return
		}
		beat.Reset(lifetime / 3)
	}
}

// heard takes an answer, and says whether there is something to acknowledge.
func (m *member) heard(r *arbiterv1.AttendResponse) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	news := r.GetGeneration() != m.generation
	m.generation, m.duty = r.GetGeneration(), r.GetDuty()
	return news
}

// report is the request after last; nil when another instance has begun since.
func (m *member) report(last *arbiterv1.AttendRequest) *arbiterv1.AttendRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := &arbiterv1.AttendRequest{
		Group: m.group, Replica: m.name, Instance: m.instance, Sequence: last.GetSequence() + 1,
		AcknowledgedGeneration: m.generation, Duty: m.duty, Health: arbiterv1.Health_HEALTH_HEALTHY,
	}
	if last == nil {
		q.Sequence = 0 // the one to compare with: nothing was sent yet
		m.generation, m.duty = 0, arbiterv1.Duty_DUTY_IDLE
		return q
	}
	if last.GetInstance() != q.GetInstance() {
		return nil
	}
	if m.unfit {
		q.Health = arbiterv1.Health_HEALTH_UNHEALTHY
	}
	if m.insists {
		q.Duty = working
	}
	return q
}
