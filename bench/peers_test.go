package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
)

// scenarios are all there are, in the order of the document.
func scenarios() []scenario {
	return slices.Concat(pageScenarios(), sessionScenarios(), valueScenarios(), limitScenarios(), trafficScenarios(), lockScenarios(), herdScenarios(), mixedScenarios(), endScenarios(), growthScenarios())
}

// BenchmarkPeers measures every scenario side by side, prints the tables, and
// writes docs/benchmarks.md with its pictures. `make bench` runs it; a
// scenario that fails leaves what was written of it before.
func BenchmarkPeers(b *testing.B) {
	var measured []report.Scenario
	var order []string
	for _, s := range scenarios() {
		order = append(order, s.id)
		b.Run(s.id, func(b *testing.B) {
			began, load := time.Now(), loadAverage()
			measure := compare
			if s.measure != nil {
				measure = s.measure
			}
			cases := measure(b, s)
			b.ReportMetric(0, "ns/op") // hides it
			b.ReportMetric(time.Since(began).Seconds(), "s")
			if b.Failed() {
				return
			}
			measured = append(measured, report.Scenario{
				ID: s.id, Title: s.title, Text: s.text, Headline: s.headline, Mode: theEffort().mode, Measured: began.UTC().Truncate(time.Second), Load: load, Cases: cases,
			})
		})
	}
	if len(measured) == 0 {
		return
	}
	dir := os.Getenv("HERDLESS_BENCH_DOCS")
	if dir == "" {
		dir = b.TempDir()
	}
	if err := write(b, dir, measured, order); err != nil {
		b.Fatal(err)
	}
}

// write puts what was measured into the documents.
func write(b *testing.B, dir string, measured []report.Scenario, order []string) error {
	pictures := filepath.Join(dir, "bench")
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	results, err := report.Load(filepath.Join(pictures, "results.json"))
	if err != nil {
		return err
	}
	results.Merge(machine(b), measured, order)
	if err := results.Save(filepath.Join(pictures, "results.json")); err != nil {
		return err
	}
	for _, s := range results.Scenarios {
		if err := os.WriteFile(filepath.Join(pictures, s.ID+".svg"), report.SVG(s), 0o644); err != nil {
			return err
		}
	}
	modules, err := versions(b.Context())
	if err != nil {
		return err
	}
	d := report.Document{
		Results: results, Verdicts: report.Judge(results, explained(goals)), Versions: modules, LeftOut: leftOut, Notes: notes, Pictures: "bench",
	}
	var only []string
	for _, s := range measured {
		only = append(only, s.ID)
	}
	d.Print(os.Stdout, only)
	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), d.Markdown(), 0o644)
}

// machine says where it is measured.
func machine(tb testing.TB) report.Machine {
	m := report.Machine{CPU: runtime.GOARCH, OS: runtime.GOOS, Go: runtime.Version(), Cores: runtime.NumCPU(), Awake: keepsAwake()}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-") // what follows is its builder's
		m.OS += " " + version
	}
	info, err := redistest.Standalone(tb).Client(tb).InfoMap(context.Background(), "server").Result()
	if err != nil {
		tb.Fatal(err)
	}
	m.Redis = info["Server"]["redis_version"]
	return m
}

// compared are the modules whose versions matter to the reader.
var compared = []string{
	"github.com/alexedwards/scs/goredisstore", "github.com/alexedwards/scs/v2", "github.com/boj/redistore", "github.com/bsm/redislock",
	"github.com/chenyahui/gin-cache", "github.com/gin-contrib/sessions", "github.com/gin-gonic/gin", "github.com/go-chi/httprate",
	"github.com/go-redis/redis/v8", "github.com/go-redis/redis_rate/v10", "github.com/go-redsync/redsync/v4", "github.com/gofiber/fiber/v3",
	"github.com/gofiber/storage/redis/v3", "github.com/gomodule/redigo", "github.com/gorilla/sessions", "github.com/redis/go-redis/v9",
	"github.com/redis/rueidis", "github.com/valyala/fasthttp", "github.com/viccon/sturdyc",
}

// versions are those that this binary was built with.
func versions(ctx context.Context) ([]string, error) {
	args := append([]string{"list", "-m", "-f", "{{.Path}} {{.Version}}"}, compared...)
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("versions of modules: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// loadAverage is that of the last minute, 0 where the system does not tell.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// leftOut are peers that the module proxy did not have when this was written.
var leftOut = []string{
	"`redis/rueidis/rueidisaside` and `redis/rueidis/rueidislock`: they were not to be had; rueidis itself is there as a floor.",
	"`rbcervilla/redisstore`: nor was that; `gorilla/sessions` has `boj/redistore`.",
	"`go-chi/httprate-redis`: nor was that; `httprate` is there with its counter in the process.",
}

// notes are what the figures do not say by themselves.
var notes = []string{
	"Every library has its defaults, but for what is said here and in the text of a scenario. " +
		"`gin-contrib/sessions` and `boj/redistore` are given as many idle connections as there are goroutines, and gofiber's cache 1 GiB.",
	"herdless's client is `redisconn.Open`'s; the peers have go-redis's with its defaults, or the client that they bring along. In the lock scenarios all have go-redis's with its defaults. " +
		"Caches may take a second for a step in Redis where they have less by default (50 ms): a machine that is this full misses that now and then.",
	"gofiber stands on fasthttp, not net/http: its requests are of another server, and cost less before any library has done anything.",
}
