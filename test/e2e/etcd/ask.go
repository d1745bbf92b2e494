package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"offduty.dev/test/e2e/harness"
)

// askTimeout bounds one question to a member; one that is down does not answer.
const askTimeout = 2 * time.Second

type answer struct {
	status int
	body   []byte
}

func get(ctx context.Context, url string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, body: body}, err
}

func marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a patch: %w", err)
	}
	return data, nil
}

// leadPeriod is how often each member is asked whether it leads.
const leadPeriod = 50 * time.Millisecond

// lead notes when the member says that it leads: from the first time that it said so to the last.
func (m *member) lead(ctx context.Context) {
	k, err := m.connect(m)
	if err != nil {
		m.note(err)
		return
	}
	defer k.Close()
	maintenance := pb.NewMaintenanceClient(k.ActiveConnection())
	ticker := time.NewTicker(leadPeriod)
	defer ticker.Stop()
	leads := false
	for {
		asked := time.Now()
		one, cancel := context.WithTimeout(ctx, askTimeout)
		s, err := maintenance.Status(one, &pb.StatusRequest{})
		cancel()
		was := leads
		leads = err == nil && s.GetLeader() == s.GetHeader().GetMemberId()
		m.mu.Lock()
		switch {
		case leads && !was:
			m.shifts = append(m.shifts, harness.Shift{Pod: m.name, UID: m.uid, From: time.Now(), To: time.Now()})
		case leads:
			m.shifts[len(m.shifts)-1].To = asked
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Shifts are when each member has led, as it said itself.
func (b *Kubelet) Shifts() []harness.Shift {
	var out []harness.Shift
	for _, m := range b.members {
		m.mu.Lock()
		out = append(out, m.shifts...)
		m.mu.Unlock()
	}
	return out
}

// leaderChanges is how many other leaders this process has seen than the one that it found when
// it was started.
func (m *member) leaderChanges(ctx context.Context) (float64, error) {
	a, err := get(ctx, url(m.address(), m.metrics)+"/metrics")
	if err != nil {
		return 0, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(a.body))
	if err != nil {
		return 0, fmt.Errorf("read the metrics of %s: %w", m.name, err)
	}
	const name = "etcd_server_leader_changes_seen_total"
	if n := len(families[name].GetMetric()); n != 1 {
		return 0, fmt.Errorf("%s has %d metrics %s, not one", m.name, n, name)
	}
	return families[name].GetMetric()[0].GetCounter().GetValue() - 1, nil
}

// LeaderChanges is that of all processes, those that have ended among them. Each change of the
// leader is seen by every process that runs.
func (b *Kubelet) LeaderChanges(ctx context.Context) (int, error) {
	sum := 0.0
	for _, m := range b.members {
		n, err := m.leaderChanges(ctx)
		if err != nil {
			return 0, err
		}
		m.mu.Lock()
		sum += m.changes + n
		m.mu.Unlock()
	}
	return int(sum), nil
}
