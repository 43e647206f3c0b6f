// Package arrows states which package of herdless may import which. Its test
// checks the tree; see docs/design.md for the reasons.
package arrows

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

const root = "github.com/herdless/herdless"

// Package is what the rules look at, as `go list -json` prints it.
type Package struct {
	ImportPath string
	Standard   bool
	Imports    []string // of the package itself, without its tests
	Deps       []string // all that it imports, directly or not
}

// Violations returns a line for every import that breaks a rule.
func Violations(pkgs []Package) []string {
	standard := map[string]bool{}
	for _, p := range pkgs {
		if p.Standard {
			standard[p.ImportPath] = true
		}
	}
	var out []string
	for _, p := range pkgs {
		from, ok := within(p.ImportPath)
		if !ok {
			continue
		}
		for _, r := range rules {
			if !r.holdsFor(from) {
				continue
			}
			imports := p.Imports
			if r.deep {
				imports = p.Deps
			}
			for _, to := range imports {
				if !standard[to] && !r.allows(from, to) {
					out = append(out, fmt.Sprintf("%s imports %s: %s", p.ImportPath, to, r.why))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// rule is one thing that must hold for imports of some packages.
type rule struct {
	why      string
	deep     bool // look at all dependencies, not only at direct imports
	holdsFor func(from string) bool
	allows   func(from, to string) bool
}

// Paths are given relative to the root of the project. A path outside of it is
// whole.
var rules = []rule{
	{
		why:      "arrows go examples → adapters → features → internal, never back",
		holdsFor: func(string) bool { return true },
		allows: func(from, to string) bool {
			to, ok := within(to)
			return !ok || layer(to) <= layer(from)
		},
	},
	{
		why:      "a feature imports the standard library, internal packages and small in-process libraries; the one arrow between features is responsecache → cache",
		holdsFor: isFeature,
		allows: func(from, to string) bool {
			to, ours := within(to)
			switch {
			case !ours:
				return slices.Contains(smallLibraries, to) ||
					isRedisStore(from) && isRedisLibrary(to) ||
					isTestHelper(from) && isTestHelper(to)
			case layer(to) == layerInternal, strings.Contains(to, "/internal/"): // the latter is Go's own rule
				return true
			}
			return isStoreOrSuite(from) && to == path.Dir(from) ||
				from == "lock/redislock" && to == "lock/fence" || // a part of its own feature
				from == "responsecache" && to == "cache"
		},
	},
	{
		why:  "who uses a feature without Redis must not inherit a Redis client: it belongs into the feature's redis… package",
		deep: true,
		holdsFor: func(from string) bool {
			return isFeature(from) && !isRedisStore(from) || from == "adapters/adaptertest"
		},
		allows: func(_, to string) bool { return !isRedisLibrary(to) },
	},
	{
		why:      "frameworks and other heavy modules live in nested modules",
		deep:     true,
		holdsFor: func(from string) bool { return !inNestedModule(from) },
		allows: func(_, to string) bool {
			return !slices.ContainsFunc(heavy, func(h string) bool { return to == h || strings.HasPrefix(to, h+"/") })
		},
	},
	{
		why:      "test helpers do not belong into a program",
		deep:     true,
		holdsFor: func(from string) bool { return !isTestHelper(from) },
		allows: func(_, to string) bool {
			to, _ = within(to)
			return !isTestHelper(to)
		},
	},
	{
		why:      "an example shows what a user can do, and a user cannot import internal packages",
		holdsFor: func(from string) bool { return layer(from) == layerExamples && !isTestHelper(from) },
		allows: func(_, to string) bool {
			to, ours := within(to)
			return !ours || layer(to) != layerInternal
		},
	},
}

// smallLibraries are the third parties that a feature may import.
var smallLibraries = []string{
	"github.com/cespare/xxhash/v2",       // names tags in cache
	"github.com/dchest/siphash",          // hides visitors in middleware/traffic
	"github.com/dunglas/httpsfv",         // structured fields in responsecache
	"github.com/klauspost/compress/zstd", // compression in cache/rediscache, and in responsecache
	"github.com/klauspost/compress/gzip", // compression in responsecache
	"github.com/andybalholm/brotli",      // likewise
	"github.com/maypok86/otter/v2",       // the in-process tier of cache
	"github.com/sony/gobreaker/v2",       // the circuit breaker of cache
}

// heavy are the modules that a user of the root module must never inherit.
var heavy = []string{
	"github.com/gin-gonic/gin", "github.com/labstack/echo", "github.com/gofiber/fiber", "go.opentelemetry.io", "github.com/prometheus",
}

const (
	layerInternal = iota
	layerFeature
	layerAdapter
	layerExamples
)

// layer returns where in the house a package of the project is.
func layer(p string) int {
	switch first, _, _ := strings.Cut(p, "/"); first {
	case "internal":
		return layerInternal
	case "adapters":
		return layerAdapter
	case "examples", "bench":
		return layerExamples
	default:
		return layerFeature
	}
}

func isFeature(p string) bool { return layer(p) == layerFeature && p != "" }

// isRedisStore reports a feature's store in Redis.
func isRedisStore(p string) bool {
	return strings.Contains(path.Base(p), "redis") && isFeature(p)
}

// isStoreOrSuite reports a sub-package that belongs to the feature above it.
func isStoreOrSuite(p string) bool {
	return isRedisStore(p) || strings.HasSuffix(path.Base(p), "test")
}

func isRedisLibrary(p string) bool {
	return strings.HasPrefix(p, "github.com/redis/") || strings.HasPrefix(p, "github.com/go-redsync/")
}

func inNestedModule(p string) bool {
	return p == "adapters/gin" || strings.HasPrefix(p, "adapters/gin/") || layer(p) == layerExamples
}

// isTestHelper reports a package, of the project or not, that only tests may
// import. The suites are among them: a program does not need one.
func isTestHelper(p string) bool {
	for _, lib := range []string{"github.com/stretchr/testify", "go.uber.org/goleak", "pgregory.net/rapid"} {
		if p == lib || strings.HasPrefix(p, lib+"/") {
			return true
		}
	}
	switch p {
	case "internal/redistest", "testing", "testing/synctest", "net/http/httptest":
		return true
	}
	first, _, _ := strings.Cut(p, "/")
	ours := slices.Contains([]string{"session", "lock", "cache", "responsecache", "middleware", "adapters", "internal"}, first)
	return ours && strings.HasSuffix(path.Base(p), "test")
}

// within returns the path relative to the project's root, and whether it is of
// the project at all. Otherwise the path stays whole.
func within(importPath string) (string, bool) {
	if importPath == root {
		return "", true
	}
	if rest, ok := strings.CutPrefix(importPath, root+"/"); ok {
		return rest, true
	}
	return importPath, false
}
