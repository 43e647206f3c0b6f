package nils_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/herdless/herdless/internal/nils"
	"github.com/stretchr/testify/assert"
)

func TestIs(t *testing.T) {
	assert.True(t, nils.Is(nil))
	assert.True(t, nils.Is(io.Writer(nil)))
	assert.True(t, nils.Is((*bytes.Buffer)(nil)))
	assert.False(t, nils.Is(new(bytes.Buffer)))
	assert.False(t, nils.Is(struct{}{}))
	assert.False(t, nils.Is(http.Header(nil)), "no pointer: its methods may work")
}
