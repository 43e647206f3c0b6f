package redistest_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// infoInt returns a number from the reply to INFO.
func infoInt(t *testing.T, info, name string) int {
	t.Helper()
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			n, err := strconv.Atoi(value)
			require.NoError(t, err)
			return n
		}
	}
	t.Fatalf("no %s in %q", name, info)
	return 0
}
