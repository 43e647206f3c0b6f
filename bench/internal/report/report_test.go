package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRatioIsFormedWithinEachRound(t *testing.T) {
	// The machine is ten times as slow in the second round; both notice.
	ours, theirs := []float64{200, 20, 210}, []float64{100, 10, 105}
	if got := Ratio(ours, theirs, false); got != 2 {
		t.Errorf("of more-is-better values: %v, want 2", got)
	}
	if got := Ratio(ours, theirs, true); got != 0.5 {
		t.Errorf("of less-is-better values: %v, want 0.5", got)
	}
	if got := Ratio([]float64{1, 4}, []float64{0, 2}, false); got != 2 {
		t.Errorf("with a round that has no ratio: %v, want 2", got)
	}
	if got := Ratio(nil, nil, false); got != 0 {
		t.Errorf("of nothing: %v, want 0", got)
	}
}

func TestMedianAndPercentile(t *testing.T) {
	values := []int{5, 1, 4, 2, 3}
	for p, want := range map[int]int{0: 1, 1: 1, 20: 1, 50: 3, 80: 4, 81: 5, 99: 5, 100: 5} {
		if got := Percentile(values, p); got != want {
			t.Errorf("percentile %d: %d, want %d", p, got, want)
		}
	}
	if got := Median([]int{4, 1, 3, 2}); got != 2 {
		t.Errorf("median of an even number: %d, want the lower one, 2", got)
	}
	if got := Median([]string(nil)); got != "" {
		t.Errorf("median of nothing: %q", got)
	}
	if values[0] != 5 {
		t.Error("the caller's values were sorted")
	}
}

func TestNumHasThreeDigits(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", 1: "1", 0.123: "0.12", 1.005: "1.00", 12.34: "12.3", 123.4: "123", 1234: "1234", 1234.5: "1234",
		12345: "12.3 k", 999_400: "999 k", 999_600: "1.00 M", 11_200_000: "11.2 M", 9_999: "10.0 k", 99.96: "100",
	} {
		if got := Num(f); got != want {
			t.Errorf("Num(%v) = %q, want %q", f, got, want)
		}
	}
}

func some() Scenario {
	first := []Sample{{"ops": 300, "allocs": 2, "trips": 1.02}, {"ops": 30, "allocs": 2, "trips": 1.02}, {"ops": 330, "allocs": 3, "trips": 1.02}}
	peer := []Sample{{"ops": 100}, {"ops": 10}, {"ops": 100}}
	slow := []Sample{{"ops": 10}, {"ops": 1}, {"ops": 10}}
	return Scenario{
		ID: "some", Title: `Reads & <writes> of "things"`, Text: "What it does.", Headline: "ops", Mode: "quick", Measured: time.Unix(1e9, 0),
		Cases: []Case{{Name: "1 at a time", Rounds: 3, Rows: []Row{
			NewRow("herdless", Ours, "ops", first, first),
			NewRow("good", Peer, "ops", first, peer),
			NewRow("bad", Peer, "ops", first, slow),
			NewRow("bare", Floor, "ops", first, first),
		}}, {Name: "none", Rows: []Row{{Name: "herdless", Kind: Ours}}}},
	}
}

func TestRowSumsUpItsRounds(t *testing.T) {
	rows := some().Cases[0].Rows
	if got := rows[0].Values; got["ops"] != 300 || got["allocs"] != 2 || len(got) != 3 {
		t.Errorf("medians: %v", got)
	}
	if rows[0].Ratio != 1 || rows[1].Ratio != 3 || rows[2].Ratio != 30 {
		t.Errorf("ratios: %v, %v, %v, want 1, 3, 30", rows[0].Ratio, rows[1].Ratio, rows[2].Ratio)
	}
}

func TestSVGIsWellFormed(t *testing.T) {
	s := some()
	picture := SVG(s)
	bars, texts := 0, 0
	d := xml.NewDecoder(bytes.NewReader(picture))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, picture)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		} else if ok && e.Name.Local == "text" {
			texts++
		}
	}
	if bars != 1+3+5 { // background, legend, rows
		t.Errorf("%d rectangles, want 9", bars)
	}
	if texts != 2+3+2+2*5 { // heading, legend, cases, labels and values of rows
		t.Errorf("%d texts, want 17", texts)
	}
	if bytes.Contains(picture, []byte("NaN")) || bytes.Contains(picture, []byte("Inf")) {
		t.Error("a bar has no length")
	}
}

// TestFloorThatDwarfsTheOthersIsCut: else their bars could not be told apart.
func TestFloorThatDwarfsTheOthersIsCut(t *testing.T) {
	draw := func(floor float64) string {
		return string(SVG(Scenario{Headline: "ops", Cases: []Case{{Rows: []Row{
			{Name: "herdless", Kind: Ours, Values: map[string]float64{"ops": 50}},
			{Name: "peer", Kind: Peer, Values: map[string]float64{"ops": 100}},
			{Name: "bare", Kind: Floor, Values: map[string]float64{"ops": floor}},
		}}}}))
	}
	if cut := draw(1e6); !strings.Contains(cut, `width="220.0"`) || !strings.Contains(cut, `width="440.0"`) || !strings.Contains(cut, "<path") || !strings.Contains(cut, "1.00 M") {
		t.Error("the bars of 50, 100 and far more are not half, full, and cut off:", cut)
	}
	if whole := draw(200); !strings.Contains(whole, `width="110.0"`) || strings.Contains(whole, "<path") {
		t.Error("a floor of the same order is not drawn to scale:", whole)
	}
}

func TestGoals(t *testing.T) {
	r := &Results{Scenarios: []Scenario{some()}}
	got := Judge(r, []Goal{
		{Text: "best peer", Scenario: "some", Case: "1 at a time", Versus: BestPeer, Bound: 3},
		{Text: "named peer", Scenario: "some", Case: "1 at a time", Versus: "bad", Bound: 40},
		{Text: "figure", Scenario: "some", Case: "1 at a time", Metric: "allocs", Bound: 1, AtMost: true},
		{Text: "met figure", Scenario: "some", Case: "1 at a time", Row: "bare", Metric: "ops", Bound: 300},
		{Text: "no such scenario", Scenario: "other", Case: "1 at a time", Metric: "ops"},
		{Text: "no such metric", Scenario: "some", Case: "1 at a time", Metric: "up"},
		{Text: "a bit more than one round trip", Scenario: "some", Case: "1 at a time", Metric: "trips", Bound: 1, AtMost: true},
		{Text: "nothing at all", Scenario: "some", Case: "1 at a time", Metric: "allocs", AtMost: true},
		{Text: "last row", Scenario: "some", Case: "1 at a time", Versus: LastRow, Bound: 1.25, AtMost: true},
	})
	for i, want := range []struct {
		measured, met bool
		seen, short   float64
		verdict       string
	}{
		{true, true, 3, 0, "**met**"},
		{true, false, 30, 0.25, "not met: 25 % less than the goal"},
		{true, false, 2, 1, "not met: 100 % more than the goal"},
		{true, true, 300, 0, "**met**"},
		{false, false, 0, 0, "not measured"},
		{false, false, 0, 0, "not measured"},
		{true, true, 1, 0, "**met**"},
		{true, false, 2, 0, "not met: 2 more than the goal"},
		{true, true, 1, 0, "**met**"},
	} {
		v := got[i]
		if v.Measured != want.measured || v.Met() != want.met || v.Seen != want.seen || math.Abs(v.Short()-want.short) > 1e-9 || v.verdict() != want.verdict {
			t.Errorf("%s: %+v, met %v, short %v, %q; want %+v", v.Text, v, v.Met(), v.Short(), v.verdict(), want)
		}
	}
	if got[0].Against != "good" {
		t.Errorf("the best peer is %q, want %q", got[0].Against, "good")
	}
}

func TestResultsAreKeptAndMerged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	r, err := Load(path)
	if err != nil {
		t.Fatal("a file that is not there yet:", err)
	}
	here := Machine{CPU: "here", Cores: 2}
	a, b, c := Scenario{ID: "a", Mode: "full"}, Scenario{ID: "b", Mode: "full"}, Scenario{ID: "gone"}
	r.Merge(here, []Scenario{b, a, c}, []string{"a", "b", "c"})
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	if r, err = Load(path); err != nil {
		t.Fatal(err)
	}
	b.Mode = "quick"
	r.Merge(here, []Scenario{b}, []string{"a", "b", "c"})
	if len(r.Scenarios) != 2 || r.Scenarios[0].ID != "a" || r.Scenarios[0].Mode != "full" || r.Scenarios[1].Mode != "quick" {
		t.Errorf("%+v, want a as it was, and b anew", r.Scenarios)
	}
	r.Merge(Machine{CPU: "there"}, []Scenario{b}, []string{"a", "b"})
	if len(r.Scenarios) != 1 || r.Scenarios[0].ID != "b" {
		t.Errorf("%+v, want b alone: a is of another machine", r.Scenarios)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil {
		t.Error("a broken file was read")
	}
}

func TestBusyMachineIsSaidToBe(t *testing.T) {
	for _, c := range []struct {
		loads []float64
		said  bool
	}{{nil, false}, {[]float64{0, 3.9}, false}, {[]float64{0, 9, 12, 1}, true}} {
		var list []Scenario
		for _, l := range c.loads {
			list = append(list, Scenario{Load: l})
		}
		if got := busy(2, list); (got != "") != c.said {
			t.Errorf("loads of %v: %q", c.loads, got)
		}
	}
}

func TestDocument(t *testing.T) {
	r := &Results{Machine: Machine{CPU: "a processor", Cores: 2}, Scenarios: []Scenario{some()}}
	d := Document{
		Results: r, Versions: []string{"example.com/a v1.2.3"}, LeftOut: []string{"b: why"}, Pictures: "bench",
		Verdicts: Judge(r, []Goal{
			{Work: "reads", Text: "≥ 3× the best peer", Scenario: "some", Case: "1 at a time", Versus: BestPeer, Bound: 3},
			{Work: "reads", Text: "≥ 4", Scenario: "some", Case: "1 at a time", Versus: BestPeer, Bound: 4, Why: "it is slow"},
			{Work: "reads", Text: "≥ 5", Scenario: "some", Case: "1 at a time", Versus: BestPeer, Bound: 5, Why: "it is slow"},
			{Work: "reads", Text: "≥ 1", Scenario: "some", Case: "1 at a time", Versus: BestPeer, Bound: 1, Why: "it is fast"},
		}),
	}
	for _, want := range []string{
		"| reads | ≥ 3× the best peer | 3× good | **met** |", "| example.com/a | v1.2.3 |", "- Left out: b: why",
		"](bench/some.svg)", "|   | requests/s | × | allocs | round trips |\n|---|--:|--:|--:|--:|\n| herdless | 300 | 1 | 2 | 1.02 |\n| good | 100 | 3 | – | – |",
		"in quick mode", "a processor, 2 cores", "| not met: 25 % less than the goal |",
		"are not met:\n\n- reads: it is slow\n\n## Reads",
	} {
		if !strings.Contains(string(d.Markdown()), want) {
			t.Errorf("no %q in\n%s", want, d.Markdown())
		}
	}
	var b bytes.Buffer
	d.Print(&b, []string{"some"})
	if out := b.String(); !strings.Contains(out, "herdless") || !strings.Contains(out, "**met**") {
		t.Error(out)
	}
}
