package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics is one scrape: the families by name.
type Metrics map[string]*dto.MetricFamily

// Scrape reads /metrics of a process, as Prometheus does.
func (s *System) Scrape(ctx context.Context, process string) (Metrics, error) {
	url := fmt.Sprintf("http://127.0.0.1:%d/metrics", s.ports["metrics of "+process])
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", process, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return nil, fmt.Errorf("scrape %s: it answers %s: %s", process, answer.Status, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", process, err)
	}
	return families, nil
}

// Sum adds up the values of a counter or gauge, or the number of observations of a
// histogram, over all series that have the labels.
func (m Metrics) Sum(name string, labels map[string]string) float64 {
	sum := 0.0
	for _, series := range m[name].GetMetric() {
		has := map[string]string{}
		for _, l := range series.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		want := maps.Clone(has)
		maps.Copy(want, labels)
		if maps.Equal(has, want) {
			sum += series.GetCounter().GetValue() + series.GetGauge().GetValue() + float64(series.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// About finds a family that has a series whose label begins with value.
func (m Metrics) About(label, value string) (name string, found bool) {
	for name, f := range m {
		for _, series := range f.GetMetric() {
			if slices.ContainsFunc(series.GetLabel(), func(l *dto.LabelPair) bool {
				return l.GetName() == label && strings.HasPrefix(l.GetValue(), value)
			}) {
				return name, true
			}
		}
	}
	return "", false
}

// LogLine is one line of a process's log.
type LogLine map[string]any

// LogOf reads the log of a process. A line that is not JSON is an error: people's tools
// read these logs. One that ended, as for a lead that it lost in another test, has said why.
func (s *System) LogOf(process string) ([]LogLine, error) {
	file, err := os.Open(filepath.Join(s.Cluster.LogDir(), process+".log"))
	if err != nil {
		return nil, fmt.Errorf("read the log of %s: %w", process, err)
	}
	defer file.Close()
	program, _, _ := strings.Cut(process, "-")
	var out []LogLine
	for lines := bufio.NewReader(file); ; {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out, nil // what is left is a line that is being written
		}
		if err != nil {
			return nil, fmt.Errorf("read the log of %s: %w", process, err)
		}
		if strings.HasPrefix(string(text), program+": ") {
			continue // why it ended, as any command says it
		}
		line := LogLine{}
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("the log of %s has a line that is not JSON: %q: %w", process, text, err)
		}
		out = append(out, line)
	}
}
