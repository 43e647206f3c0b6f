package report

import "math"

// Goal is a figure that was set before it was measured.
type Goal struct {
	Work string // what the goal is about; goals of one work stand together
	Text string // the goal in words
	// Scenario, Case and Row name what is looked at. Row may be empty: the
	// case's first.
	Scenario, Case, Row string
	// Metric is the figure itself, if there is no Versus.
	Metric string
	// Versus is the row that the headline of the case's first row is compared
	// with: a name, BestPeer or LastRow.
	Versus string
	// Bound is what the figure, or the ratio, must reach, or not exceed with
	// AtMost.
	Bound  float64
	AtMost bool
	// Why says what stands in the way where the goal is missed.
	Why string
}

// What a first row is compared with, besides rows by their names.
const (
	BestPeer = "the best peer" // the one with the best headline
	LastRow  = "the last row"  // of a case whose rows are sizes
)

// Verdict is what was seen of a goal.
type Verdict struct {
	Goal
	Seen     float64
	Measured bool
	Against  string // which peer was the best
}

// Met says whether the goal was reached.
func (v Verdict) Met() bool {
	if v.AtMost {
		return v.Measured && v.Seen <= v.Bound
	}
	return v.Measured && v.Seen >= v.Bound
}

// Short returns by how much a goal that is not met was missed, as a share of
// the bound.
func (v Verdict) Short() float64 {
	if v.Met() || v.Bound == 0 {
		return 0
	}
	return math.Abs(v.Seen-v.Bound) / v.Bound
}

// Judge looks goals up in what was measured.
func Judge(r *Results, goals []Goal) []Verdict {
	out := make([]Verdict, len(goals))
	for i, g := range goals {
		out[i] = judge(r, g)
	}
	return out
}

func judge(r *Results, g Goal) Verdict {
	v := Verdict{Goal: g}
	c, ok := r.Case(g.Scenario, g.Case)
	if !ok || len(c.Rows) == 0 {
		return v
	}
	if g.Versus == "" {
		name := g.Row
		if name == "" {
			name = c.Rows[0].Name
		}
		if row, ok := r.Find(g.Scenario, g.Case, name); ok {
			v.Seen, v.Measured = row.Values[g.Metric]
			switch g.Metric { // what the background adds is not a request's
			case "allocs":
				v.Seen = math.Round(v.Seen)
			case "trips":
				v.Seen = math.Round(v.Seen*10) / 10
			}
		}
		return v
	}
	for i, row := range c.Rows {
		if row.Name == g.Versus || g.Versus == BestPeer && row.Kind == Peer || g.Versus == LastRow && i == len(c.Rows)-1 {
			if !v.Measured || row.Ratio < v.Seen {
				v.Seen, v.Measured, v.Against = row.Ratio, true, row.Name
			}
		}
	}
	return v
}
