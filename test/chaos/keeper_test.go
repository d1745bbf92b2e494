package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"offduty.dev/test/cluster/controlplane"
)

// keeper does what a kubelet would do: what has ended is started again, but for what is
// kept down.
type keeper struct {
	cluster *controlplane.Cluster
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	down   map[string]bool
	starts map[string]int
}

// backoff is how long the keeper waits before it starts something again.
const backoff = time.Second

// keep begins to look after processes. It ends with stop.
func keep(ctx context.Context, c *controlplane.Cluster, names ...string) *keeper {
	ctx, cancel := context.WithCancel(ctx)
	k := &keeper{cluster: c, cancel: cancel, down: map[string]bool{}, starts: map[string]int{}}
	for _, name := range names {
		k.running.Go(func() {
			for ctx.Err() == nil {
				k.lookAfter(ctx, name)
			}
		})
	}
	return k
}

func (k *keeper) stop() {
	k.cancel()
	k.running.Wait()
}

// lookAfter starts a process again when it has ended. What goes wrong shows at the next look.
func (k *keeper) lookAfter(ctx context.Context, name string) {
	p, err := k.cluster.Process(name)
	if err != nil {
		pause(ctx, backoff)
		return
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return
	}
	pause(ctx, backoff)
	err = controlplane.Until(ctx, name+" may be started again", func(context.Context) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.down[name] {
			return fmt.Errorf("it is kept down")
		}
		k.starts[name]++
		return nil
	})
	if err == nil {
		_ = k.cluster.Restart(ctx, name)
	}
}

// keepDown keeps a process that ends from being started until up is called.
func (k *keeper) keepDown(name string) (up func()) {
	set := func(down bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.down[name] = down
	}
	set(true)
	return func() { set(false) }
}

// pause waits, at most as long as ctx lasts.
func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}
