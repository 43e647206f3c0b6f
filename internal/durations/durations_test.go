package durations_test

import (
	"testing"
	"time"

	"github.com/herdless/herdless/internal/durations"
	"github.com/stretchr/testify/assert"
)

func TestFault(t *testing.T) {
	assert.Equal(t, "is 60ns: write 60 * time.Second for seconds; at least 1ms is possible", durations.Fault(60))
	assert.Contains(t, durations.Fault(86400), "is 86.4µs: write 86400 * time.Second")
	assert.NotEmpty(t, durations.Fault(time.Millisecond-1))
	for _, d := range []time.Duration{0, -1, time.Millisecond, time.Hour} {
		assert.Empty(t, durations.Fault(d), d)
	}
}
