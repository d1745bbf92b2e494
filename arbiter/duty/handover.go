package duty

import (
	"context"
	"errors"
	"slices"
	"time"

	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
)

// handoverTimeout is how long an application may take to answer. Its answer decides nothing but
// that it has refused; that duty has moved is seen.
const handoverTimeout = 10 * time.Second

// askHandover is Handover where the application decides who works. Who is to take over is decided
// on a look that began after the request. That the application is asked is saved before it is.
func (g *Group) askHandover(ctx context.Context, holder string, token int64, from string, candidates []string) (successor string, refusal *lease.Refusal, err error) {
	pods, err := g.lookAnew(ctx, "a handover")
	if err != nil {
		return "", nil, err
	}
	var (
		// begun: it is this call that asks. It stays so when the operation is tried again.
		begun bool
		asked roster.Asked
		ask   HandOver
	)
	err = g.send(ctx, &op{look: pods, step: true, run: g.ifConfigured(func(t *txn) {
		successor, ask = "", g.settings.HandOver
		if refusal = g.mayMove(t, holder, token, from); refusal != nil {
			return
		}
		in, before := g.input(t), g.memory.Handover
		asked = roster.Asked{Holder: holder, From: from, Revision: in.Pods[from].Revision}
		var answer roster.Refused
		successor, answer = roster.AskHandover(&t.roster, g.memory, in, asked, candidates)
		refusal = refusalOf(answer, from)
		if begun = refusal == nil && (begun || before == nil && g.memory.Handover != nil); begun {
			t.note(asked, in.Pods)
		}
	})})
	if err != nil || refusal != nil || !begun {
		return successor, refusal, err
	}
	return g.tellApplication(ctx, ask, asked, successor)
}

// note records that an application is asked, and forgets what can be asked for no more: of holders
// that are gone, and of members that are at another revision.
func (t *txn) note(asked roster.Asked, pods map[string]roster.Pod) {
	kept := slices.DeleteFunc(slices.Clone(t.roster.Asked), func(a roster.Asked) bool {
		_, held := t.leases.Holders[a.Holder]
		return !held || pods[a.From].Revision != a.Revision || a == asked
	})
	t.roster.Asked, t.dirty = append(kept, asked), true
}

// tellApplication asks for what is on record. The application is given its time even if whoever
// asked for it goes.
func (g *Group) tellApplication(ctx context.Context, ask HandOver, asked roster.Asked, successor string) (string, *lease.Refusal, error) {
	answer := make(chan error, 1)
	log := g.cfg.Log.WithValues("group", g.cfg.Key, "from", g.cfg.Prefix+asked.From, "to", g.cfg.Prefix+successor)
	log.Info("the application is asked to move duty")
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTimeout)
		defer cancel()
		err := ask(ctx, asked.From, successor)
		if err != nil {
			log.Info("asked to move duty, the application answers with an error", "error", err.Error())
		}
		if errors.Is(err, application.ErrRefused) {
			// Nothing was done: it may be asked again.
			if undo := g.call(ctx, true, func(t *txn) { t.takeBack(g.memory, asked) }); undo != nil {
				log.Error(undo, "cannot record that the application has refused; it will not be asked again for this replica")
			}
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		if errors.Is(err, application.ErrRefused) {
			return "", lease.Refuse(lease.NoSuccessor, "the application refuses", "duty does not move from %s: %v", asked.From, err), nil
		}
	case <-ctx.Done():
	}
	return successor, nil, nil
}

func (t *txn) takeBack(m *roster.Memory, asked roster.Asked) {
	t.roster.Asked = slices.DeleteFunc(slices.Clone(t.roster.Asked), func(a roster.Asked) bool { return a == asked })
	t.dirty = true
	if h := m.Handover; h != nil && h.From == asked.From {
		m.Handover = nil
	}
}
