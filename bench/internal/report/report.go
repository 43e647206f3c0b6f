// Package report turns what benchmarks measured into tables, pictures and the
// list of goals that are met or not.
//
// Nothing in it measures. What was measured is a Results, which a file keeps, so
// that a run of one scenario renews that one and leaves the others.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Kind is what a row is to the reader.
type Kind string

// The kinds of rows.
const (
	Ours  Kind = "herdless"
	Peer  Kind = "peer"
	Floor Kind = "floor" // what no library can do without
)

// Metric is one column of the tables.
type Metric struct {
	ID    string // the key in Row.Values
	Label string
	// Less says that less is better.
	Less bool
}

// Metrics are all columns there are, in their order.
var Metrics = []Metric{
	{ID: "ops", Label: "requests/s"},
	{ID: "executions", Label: "executions", Less: true},
	{ID: "failed", Label: "failed", Less: true},
	{ID: "p50", Label: "p50 ms", Less: true},
	{ID: "p99", Label: "p99 ms", Less: true},
	{ID: "max", Label: "longest ms", Less: true},
	{ID: "wake99", Label: "p99 after the execution, ms", Less: true},
	{ID: "slowed", Label: "times as slow beside", Less: true},
	{ID: "alone", Label: "p50 alone, µs", Less: true},
	{ID: "beside", Label: "p50 beside, µs", Less: true},
	{ID: "large", Label: "large ones/s"},
	{ID: "cpu", Label: "CPU µs", Less: true},
	{ID: "perkib", Label: "CPU µs per KiB", Less: true},
	{ID: "rediscpu", Label: "Redis CPU µs", Less: true},
	{ID: "allocs", Label: "allocs", Less: true},
	{ID: "bytes", Label: "bytes", Less: true},
	{ID: "commands", Label: "commands", Less: true},
	{ID: "trips", Label: "round trips", Less: true},
	{ID: "up", Label: "bytes up", Less: true},
	{ID: "down", Label: "bytes down", Less: true},
}

func metric(id string) Metric {
	i := slices.IndexFunc(Metrics, func(m Metric) bool { return m.ID == id })
	if i < 0 {
		panic(fmt.Sprintf("report: no metric %q", id))
	}
	return Metrics[i]
}

// Results is everything that was measured on one machine.
type Results struct {
	Machine   Machine    `json:"machine"`
	Scenarios []Scenario `json:"scenarios"`
}

// Machine is where, and with what, it was measured.
type Machine struct {
	CPU, OS, Go, Redis string
	Cores              int
	// Awake says that its processors were kept from sleeping where one request at a time
	// was measured.
	Awake bool
}

// Scenario is one kind of work.
type Scenario struct {
	ID       string
	Title    string
	Text     string // what is done, for who reads the tables
	Headline string // the metric that ratios and the picture are of
	Mode     string // "quick" or "full"
	Measured time.Time
	// Load is how many processes wanted a processor in the minute before, of
	// this and other programs; 0 where the system does not tell.
	Load  float64
	Cases []Case
}

// Case is a scenario under one load; its rows were interleaved.
type Case struct {
	Name   string
	Rounds int
	Rows   []Row
}

// Row is one implementation.
type Row struct {
	Name string
	Kind Kind
	// Values are medians over the rounds, by metric. What was not measured is
	// not there.
	Values map[string]float64
	// Ratio is the median of the ratios of the headline metric, formed within
	// each round: how many times better the case's first row is than this one.
	Ratio float64
}

// Sample is what one row did in one round, by metric.
type Sample map[string]float64

// NewRow sums up the rounds of a row. First are those of the case's first row.
func NewRow(name string, kind Kind, headline string, first, rounds []Sample) Row {
	r := Row{Name: name, Kind: kind, Values: map[string]float64{}}
	for _, m := range Metrics {
		var values []float64
		for _, s := range rounds {
			if v, ok := s[m.ID]; ok {
				values = append(values, v)
			}
		}
		if len(values) > 0 {
			r.Values[m.ID] = Median(values)
		}
	}
	column := func(of []Sample) []float64 {
		out := make([]float64, len(of))
		for i, s := range of {
			out[i] = s[headline]
		}
		return out
	}
	r.Ratio = Ratio(column(first), column(rounds), metric(headline).Less)
	return r
}

// Find returns a row; ok is false if it was not measured.
func (r *Results) Find(scenario, casename, row string) (Row, bool) {
	for _, s := range r.Scenarios {
		if s.ID != scenario {
			continue
		}
		for _, c := range s.Cases {
			if c.Name != casename {
				continue
			}
			for _, row1 := range c.Rows {
				if row1.Name == row {
					return row1, true
				}
			}
		}
	}
	return Row{}, false
}

// Case returns a case; ok is false if it was not measured.
func (r *Results) Case(scenario, casename string) (Case, bool) {
	for _, s := range r.Scenarios {
		i := slices.IndexFunc(s.Cases, func(c Case) bool { return c.Name == casename })
		if s.ID == scenario && i >= 0 {
			return s.Cases[i], true
		}
	}
	return Case{}, false
}

// Load reads what was kept. A file that is not there is a Results without
// scenarios.
func Load(path string) (*Results, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Results{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	r := new(Results)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("report: %s: %w", path, err)
	}
	return r, nil
}

// Save keeps r.
func (r *Results) Save(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// Merge puts newly measured scenarios in the place of those with their ids, in
// the given order of ids; what is not in it is dropped. Results of another
// machine, or of one whose processors slept where they do not now, are not kept beside new
// ones: their figures do not compare.
func (r *Results) Merge(m Machine, measured []Scenario, order []string) {
	if r.Machine != m {
		*r = Results{Machine: m}
	}
	byID := map[string]Scenario{}
	for _, s := range slices.Concat(r.Scenarios, measured) {
		byID[s.ID] = s
	}
	r.Scenarios = nil
	for _, id := range order {
		if s, ok := byID[id]; ok {
			r.Scenarios = append(r.Scenarios, s)
		}
	}
}
