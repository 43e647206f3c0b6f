package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Document is docs/benchmarks.md.
type Document struct {
	Results  *Results
	Verdicts []Verdict
	Versions []string // "module version"
	LeftOut  []string // a peer and why it is not there
	Notes    []string // paragraphs on what the figures do not say by themselves
	// Pictures is the folder of the pictures, relative to the document.
	Pictures string
}

// Markdown writes the document.
func (d Document) Markdown() []byte {
	var b bytes.Buffer
	m := d.Results.Machine
	b.WriteString(`# Benchmarks

Written by ` + "`make bench`" + `: do not edit, run it again. ` + "`make bench BENCH=quick`" + ` takes some minutes,
` + "`make bench ONLY=session`" + ` renews the scenarios whose names begin so. The figures behind this page are in
` + "[results.json](" + d.Pictures + `/results.json).

All implementations of a scenario run in one process, in short turns one after the other, each round in another order, and
every one on the same Redis. What each does is checked while it is measured: the value that was read, the length of the
page, and that no handler ran for a hit. A figure is the median over the rounds. **× is how many times better herdless is
(the first row)**: the median of the ratios within each round, so that what else the machine does hits both sides alike.
Compare rows of one table; figures of two tables were measured at two times.

*CPU µs*, *allocs* and *bytes* are of the process, per request, with the client library in it. *Commands*, *round trips*, *bytes up*
and *down* are what goes to Redis and back per request, counted on the wire in a turn of its own. *Floors* are what no library can do
without: the handler alone, or the bare command. In the pictures a bar with a gap is longer than there is room for.

## Where and with what

`)
	fmt.Fprintf(&b, "%s, %d cores, %s; %s; Redis %s on the same machine, over loopback. ", m.CPU, m.Cores, m.OS, m.Go, m.Redis)
	b.WriteString(measured(d.Results.Scenarios) + busy(m.Cores, d.Results.Scenarios) + "\n\n")
	b.WriteString(awake(m.Awake))
	b.WriteString("| module | version |\n|---|---|\n")
	for _, v := range d.Versions {
		name, version, _ := strings.Cut(v, " ")
		fmt.Fprintf(&b, "| %s | %s |\n", name, version)
	}
	b.WriteString("\n")
	for _, l := range d.LeftOut {
		fmt.Fprintf(&b, "- Left out: %s\n", l)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}

	b.WriteString("\n## Goals\n\nEach was set before anything was measured here. × is against what is named, in the same run.\n\n")
	b.WriteString("| work | goal | seen | |\n|---|---|---|---|\n")
	for _, v := range d.Verdicts {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", v.Work, v.Text, v.seen(), v.verdict())
	}
	if lines := obstacles(d.Verdicts); len(lines) > 0 {
		b.WriteString("\nWhat stands in the way of those that are not met:\n\n")
		for _, line := range lines {
			fmt.Fprintf(&b, "- %s\n", line)
		}
	}
	for _, s := range d.Results.Scenarios {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n![%s](%s/%s.svg)\n", s.Title, s.Text, s.Title, d.Pictures, s.ID)
		for _, c := range s.Cases {
			fmt.Fprintf(&b, "\n**%s**\n\n", c.Name)
			rows := cells(s, c)
			for i, row := range rows {
				fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
				if i == 0 {
					b.WriteString("|---|" + strings.Repeat("--:|", len(row)-1) + "\n")
				}
			}
		}
	}
	return b.Bytes()
}

func measured(scenarios []Scenario) string {
	if len(scenarios) == 0 {
		return "Nothing was measured."
	}
	first, last := scenarios[0].Measured, scenarios[0].Measured
	var quick []string
	for _, s := range scenarios {
		if s.Measured.Before(first) {
			first = s.Measured
		}
		if s.Measured.After(last) {
			last = s.Measured
		}
		if s.Mode == "quick" {
			quick = append(quick, s.Title)
		}
	}
	const day = "2006-01-02 15:04"
	text := fmt.Sprintf("Measured %s to %s UTC", first.UTC().Format(day), last.UTC().Format(day))
	switch len(quick) {
	case 0:
		return text + "."
	case len(scenarios):
		return text + ", in quick mode: few and short turns."
	default:
		return text + "; in quick mode, with few and short turns: " + strings.Join(quick, "; ") + "."
	}
}

// awake says what the processors did that nobody wanted.
func awake(kept bool) string {
	const why = "to wake one takes a virtual machine longer than most of what is measured. "
	if !kept {
		return "A processor that nobody wanted went to sleep, and " + why +
			"One request at a time is that above all, and a library that has more goroutines than it needs looks better for it.\n\n"
	}
	return "Where one request at a time is measured, and where one lock is handed over, the processors were kept from sleeping, as on a server at work, by a process " +
		"of the lowest priority on each (`SCHED_IDLE`): " + why + "`make bench AWAKE=0` lets them sleep: one request at a time is that above all then, " +
		"and a library that has more goroutines than it needs looks better for it.\n\n"
}

// busy says so if the machine had other things to do: more than twice as many
// processes than cores wanted one.
func busy(cores int, scenarios []Scenario) string {
	var loads []float64
	for _, s := range scenarios {
		if s.Load > 0 {
			loads = append(loads, s.Load)
		}
	}
	if l := Median(loads); l > 2*float64(cores) {
		return fmt.Sprintf(" **The machine was busy with other things: its load was %s. Times and rates are worse for it, and ratios less certain; "+
			"allocations, commands, round trips and bytes are not.**", Num(l))
	}
	return ""
}

func (v Verdict) seen() string {
	switch {
	case !v.Measured:
		return "–"
	case v.Versus == BestPeer, v.Versus == LastRow:
		return Num(v.Seen) + "× " + v.Against
	case v.Versus != "":
		return Num(v.Seen) + "×"
	default:
		return Num(v.Seen)
	}
}

func (v Verdict) verdict() string {
	switch {
	case !v.Measured && v.Case == "" && v.Why != "":
		return "not measured: " + v.Why
	case !v.Measured:
		return "not measured"
	case v.Met():
		return "**met**"
	}
	word := "less than"
	if v.AtMost {
		word = "more than"
	}
	text := fmt.Sprintf("not met: %.0f %% %s the goal", max(1, 100*v.Short()), word)
	if v.Bound == 0 {
		text = "not met: " + Num(v.Seen) + " " + word + " the goal"
	}
	return text
}

// obstacles says of the goals that are not met what stands in the way, each
// reason once.
func obstacles(verdicts []Verdict) []string {
	var out []string
	for _, v := range verdicts {
		if v.Measured && !v.Met() && v.Why != "" {
			if line := v.Work + ": " + v.Why; !slices.Contains(out, line) {
				out = append(out, line)
			}
		}
	}
	return out
}

// cells is the table of a case, its heading first.
func cells(s Scenario, c Case) [][]string {
	var columns []Metric
	for _, m := range Metrics {
		if slices.ContainsFunc(c.Rows, func(r Row) bool { _, ok := r.Values[m.ID]; return ok }) {
			columns = append(columns, m)
		}
	}
	heading := []string{" "}
	for _, m := range columns {
		heading = append(heading, m.Label)
		if m.ID == s.Headline {
			heading = append(heading, "×")
		}
	}
	out := [][]string{heading}
	for _, r := range c.Rows {
		row := []string{r.Name}
		for _, m := range columns {
			cell := "–"
			if v, ok := r.Values[m.ID]; ok {
				cell = Num(v)
			}
			row = append(row, cell)
			if m.ID == s.Headline {
				row = append(row, Num(r.Ratio))
			}
		}
		out = append(out, row)
	}
	return out
}

// Print writes everything as one plain table, for a terminal.
func (d Document) Print(w io.Writer, only []string) {
	for _, s := range d.Results.Scenarios {
		if !slices.Contains(only, s.ID) {
			continue
		}
		fmt.Fprintf(w, "\n%s (%s, %s)\n", s.Title, s.Mode, s.Measured.Format(time.TimeOnly))
		for _, c := range s.Cases {
			fmt.Fprintf(w, "%s, medians of %d rounds\n", c.Name, c.Rounds)
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
			for _, row := range cells(s, c) {
				fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
			}
			_ = t.Flush()
		}
	}
	fmt.Fprintln(w, "\nGoals")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range d.Verdicts {
		if slices.Contains(only, v.Scenario) {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", v.Work, v.Text, v.seen(), v.verdict())
		}
	}
	_ = t.Flush()
}
