package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// How long after Work has returned too early it is started again.
const workAgain = time.Second

// AttendantConfig says who attends.
type AttendantConfig struct {
	Client *Client
	Group  string
	// Replica is "<namespace>/<pod name>" on Kubernetes, Instance the pod's UID.
	Replica, Instance string
	// Now is the clock, time.Now outside tests. It must be monotonic.
	Now func() time.Time
	// Work is called when the replica gets duty. It works until ctx ends and returns when
	// it has really stopped: only then the arbiter is told that the replica is idle. If it
	// returns earlier, it is called again after a second.
	Work func(ctx context.Context)
	// Fit, if not nil, tells the arbiter whether the replica could take over duty. It is
	// asked with each message and must not block.
	Fit func() bool
	// OnError, if not nil, is told why the conversation with the arbiter broke off. It
	// is begun again at once or a little later. It must not block.
	OnError func(error)
}

// Attendant is one replica's conversation with the arbiter. It sees to it that the
// replica works only while it may.
type Attendant struct {
	cfg AttendantConfig
	// effect wakes the conversation when another duty is in effect.
	effect chan struct{}

	mu sync.Mutex
	// generation and duty are what the arbiter said last; 0 and DutyUnknown: nothing yet,
	// or its permission has lapsed.
	generation int64
	duty       Duty
	// until is when the permission to work ends, by our own clock.
	until time.Time
	// lapse fires at until, while Work runs.
	lapse *time.Timer
	// running: Work has been called and has not returned. stopping: it was told to.
	running, stopping bool
	cancel            context.CancelFunc
	work              sync.WaitGroup
}

// NewAttendant returns an Attendant; Run makes it attend.
func NewAttendant(cfg AttendantConfig) (*Attendant, error) {
	if cfg.Client == nil || cfg.Work == nil || cfg.Now == nil {
		return nil, errors.New("an attendant needs Client, Work and Now")
	}
	if cfg.OnError == nil {
		cfg.OnError = func(error) {}
	}
	return &Attendant{cfg: cfg, effect: make(chan struct{}, 1)}, nil
}

// Working tells whether the replica may work at this moment. It turns false by itself
// when the arbiter has not been heard for too long, also while everything else stands
// still: ask it right before anything that only a working replica may do.
func (a *Attendant) Working() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.may()
}

func (a *Attendant) may() bool { return a.duty == DutyWorking && a.cfg.Now().Before(a.until) }

// Run attends until ctx ends. It returns nil when Work has stopped.
func (a *Attendant) Run(ctx context.Context) error {
	defer a.work.Wait()
	defer a.rest()
	retry := firstRetry
	for {
		heard, err := a.attend(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			continue // only to begin anew
		}
		a.cfg.OnError(err)
		if heard {
			retry = firstRetry
		}
		if !pause(ctx, max(retry, hint(err))) {
			return nil
		}
		retry = min(2*retry, lastRetry)
	}
}

// attend holds one conversation. A nil error asks for another one at once.
func (a *Attendant) attend(ctx context.Context) (heard bool, err error) {
	stream, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := a.cfg.Client.attendance.Attend(stream)
	if err != nil {
		return false, a.failure(ctx, err)
	}
	answers, failed := make(chan *arbiterv1.AttendResponse), make(chan error, 1)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel() // before waiting: ends Recv
	reading.Go(func() { failed <- read(stream, s.Recv, answers) })

	var sent ledger
	interval := a.cfg.Client.timeout / 2
	beat := time.NewTimer(0)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return heard, nil
		case err := <-failed:
			return heard, a.failure(ctx, err)
		case answer := <-answers:
			from, err := sent.from(answer.GetSequence())
			if err != nil {
				return heard, fmt.Errorf("attend as %s: %w", a.cfg.Replica, a.cfg.Client.broken("attend", a.cfg.Group, err))
			}
			heard = true
			lifetime := lifetimeOf(answer)
			a.obey(ctx, answer, from.Add(lifetime))
			// The contract says a third; a quarter leaves room for the way there.
			interval = max(lifetime/4, minRenewal)
			// An arbiter that speaks unasked must not put the next request off.
			beat.Reset(sent.due(interval).Sub(a.cfg.Now()))
			continue
		case <-a.effect:
		case <-beat.C:
		}
		if sent.behind() {
			if !heard {
				err = fmt.Errorf("attend as %s: %w", a.cfg.Replica, errSilent)
			}
			return heard, err
		}
		if err := s.Send(a.request(sent.add(a.cfg.Now()))); err != nil {
			// The reason is what Recv says.
			return heard, a.failure(ctx, <-failed)
		}
		beat.Reset(interval)
	}
}

// read hands the answers over until the stream ends.
func read(ctx context.Context, recv func() (*arbiterv1.AttendResponse, error), answers chan<- *arbiterv1.AttendResponse) error {
	for {
		answer, err := recv()
		if err != nil {
			return err
		}
		select {
		case answers <- answer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *Attendant) failure(ctx context.Context, err error) error {
	if isEOF(err) {
		err = errEnded
	}
	return fmt.Errorf("attend as %s: %w", a.cfg.Replica, a.cfg.Client.failure(ctx, "attend", a.cfg.Group, err))
}

// request says what is in effect now; sequence is its number in the conversation.
func (a *Attendant) request(sequence int64) *arbiterv1.AttendRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &arbiterv1.AttendRequest{
		Group: a.cfg.Group, Replica: a.cfg.Replica, Instance: a.cfg.Instance,
		Duty: arbiterv1.Duty_DUTY_IDLE, Sequence: sequence,
	}
	if a.running {
		r.Duty = arbiterv1.Duty_DUTY_WORKING
	}
	if a.inEffect() {
		r.AcknowledgedGeneration = a.generation
	}
	if a.cfg.Fit != nil {
		r.Health = arbiterv1.Health_HEALTH_UNHEALTHY
		if a.cfg.Fit() {
			r.Health = arbiterv1.Health_HEALTH_HEALTHY
		}
	}
	return r
}

// inEffect: we do what the arbiter said last.
func (a *Attendant) inEffect() bool {
	if a.duty == DutyWorking {
		return a.running && !a.stopping
	}
	return !a.running
}

// obey puts an answer into effect; it lasts until the given time.
func (a *Attendant) obey(ctx context.Context, answer *arbiterv1.AttendResponse, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	news := a.generation != answer.GetGeneration()
	a.generation, a.duty, a.until = answer.GetGeneration(), dutyOf(answer.GetDuty()), until
	if a.may() {
		a.start(ctx)
	} else {
		a.stop()
	}
	if news && a.inEffect() {
		a.tell()
	}
}

// start makes Work run until the permission ends. While an earlier Work is still
// stopping it does nothing: done comes back here.
func (a *Attendant) start(ctx context.Context) {
	left := a.until.Sub(a.cfg.Now())
	if a.running {
		if !a.stopping {
			a.lapse.Reset(left)
		}
		return
	}
	work, cancel := context.WithCancel(ctx)
	a.running, a.stopping, a.cancel = true, false, cancel
	a.lapse = time.AfterFunc(left, a.expire)
	a.work.Go(func() {
		for work.Err() == nil {
			a.cfg.Work(work)
			pause(work, workAgain)
		}
		a.done(ctx)
	})
}

// stop tells Work to end. A permission that has lapsed is as if it had never been given.
func (a *Attendant) stop() {
	if a.duty == DutyWorking {
		a.generation, a.duty = 0, DutyUnknown
	}
	if a.running && !a.stopping {
		a.stopping = true
		a.lapse.Stop()
		a.cancel()
	}
}

// expire ends Work when its permission has ended, unless it was extended just now.
func (a *Attendant) expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.may() {
		a.stop()
	} else if a.running && !a.stopping {
		a.lapse.Reset(a.until.Sub(a.cfg.Now()))
	}
}

// done notes that Work has stopped, and starts it anew if it may work again already.
func (a *Attendant) done(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lapse.Stop()
	a.cancel()
	a.running, a.stopping = false, false
	if a.may() && ctx.Err() == nil {
		a.start(ctx)
	}
	a.tell()
}

// rest ends everything, when Run does.
func (a *Attendant) rest() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = time.Time{}
	a.stop()
}

// tell makes the conversation report what is in effect.
func (a *Attendant) tell() {
	select {
	case a.effect <- struct{}{}:
	default:
	}
}
