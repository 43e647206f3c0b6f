package arrows_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herdless/herdless/internal/arrows"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "github.com/herdless/herdless/"

// TestTheTree checks the packages of every module of the project.
func TestTheTree(t *testing.T) {
	top, err := filepath.Abs("../..")
	require.NoError(t, err)
	for _, module := range []string{".", "adapters/gin", "examples", "bench"} {
		pkgs := list(t, filepath.Join(top, module))
		require.NotEmpty(t, pkgs)
		assert.Empty(t, arrows.Violations(pkgs), module)
	}
}

func list(t *testing.T, dir string) []arrows.Package {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list in %s: %s", dir, exit.Stderr)
	}
	require.NoError(t, err)
	var pkgs []arrows.Package
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p arrows.Package
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
}

// TestBrokenArrowsAreFound proves of each rule that it can fail, and that it
// leaves alone what is right.
func TestBrokenArrowsAreFound(t *testing.T) {
	tests := []struct {
		from, to string
		broken   string // a part of the reason, empty if the import is right
	}{
		{"session", "internal/respwriter", ""},
		{"session", "adapters/redisconn", "never back"},
		{"internal/push", "session", "never back"},
		{"adapters/gin", "examples/webapp", "never back"},
		{"adapters/gin", "session", ""},
		{"examples/webapp", "adapters/gin", ""},
		{"responsecache", "cache", ""},
		{"lock/redislock", "lock/fence", ""},
		{"lock/fence", "lock", "one arrow between features"},
		{"cache/rediscache", "lock/fence", "one arrow between features"},
		{"responsecache", "lock", "one arrow between features"},
		{"responsecache", "cache/rediscache", "one arrow between features"},
		{"cache", "responsecache", "one arrow between features"},
		{"cache", "lock", "one arrow between features"},
		{"session", "middleware/ratelimit", "one arrow between features"},
		{"cache", "github.com/maypok86/otter/v2", ""},
		{"cache", "github.com/some/library", "small in-process libraries"},
		{"cache/rediscache", "cache", ""},
		{"cache/rediscache", "github.com/redis/go-redis/v9", ""},
		{"cache/rediscache", "lock", "one arrow between features"},
		{"lock", "github.com/redis/go-redis/v9", "must not inherit a Redis client"},
		{"lock/redislock", "internal/push", ""},
		{"middleware/ratelimit", "middleware/ratelimit/redislimit", "one arrow between features"},
		{"middleware/ratelimit/redislimit", "middleware/ratelimit", ""},
		{"adapters/redisconn", "github.com/redis/go-redis/v9", ""},
		{"adapters/redisconn", "github.com/gin-gonic/gin", "nested modules"},
		{"adapters/gin", "github.com/gin-gonic/gin", ""},
		{"session", "github.com/prometheus/client_golang/prometheus", "nested modules"},
		{"session", "internal/redistest", "test helpers"},
		{"session", "session/sessiontest", "test helpers"},
		{"session/sessiontest", "session", ""},
		{"examples/webapp", "github.com/stretchr/testify/require", "test helpers"},
		{"examples/webapp", "internal/respwriter", "a user cannot import internal"},
	}
	for _, tt := range tests {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			to := tt.to
			if !strings.Contains(to, ".") {
				to = root + to
			}
			found := arrows.Violations([]arrows.Package{{ImportPath: root + tt.from, Imports: []string{to}, Deps: []string{to}}})
			if tt.broken == "" {
				assert.Empty(t, found)
				return
			}
			assert.Contains(t, strings.Join(found, "\n"), tt.broken)
		})
	}
}
