package sim

import "iter"

// proc is a process that stops before each of its requests, so that anything may happen
// between two of them. It may be killed there, or left frozen.
type proc struct {
	next func() (struct{}, bool)
	stop func()
	over bool
}

type killed struct{}

// start returns a process that has not begun. body calls pause before each request.
func start(body func(pause func())) *proc {
	next, stop := iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(killed); !ok {
					panic(r)
				}
			}
		}()
		body(func() {
			if !yield(struct{}{}) {
				panic(killed{})
			}
		})
	})
	return &proc{next: next, stop: stop}
}

// run goes on to the next request, and says whether the process still lives.
func (p *proc) run() bool {
	if p.over {
		return false
	}
	if _, ok := p.next(); !ok {
		p.over = true
	}
	return !p.over
}

func (p *proc) kill() {
	if p != nil && !p.over {
		p.over = true
		p.stop()
	}
}
