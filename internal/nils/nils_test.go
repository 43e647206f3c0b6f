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
	assert.True(t, nils.Is(http.HandlerFunc(nil)))
	assert.False(t, nils.Is(new(bytes.Buffer)))
	assert.False(t, nils.Is(struct{}{}))
	assert.False(t, nils.Is(http.Header(nil)), "its methods may work")
}

func TestMustWrap(t *testing.T) {
	for _, none := range []http.Handler{nil, http.HandlerFunc(nil), (*http.ServeMux)(nil)} {
		assert.PanicsWithValue(t, "pkg: T.Handler needs a handler to wrap, and got nil", func() { nils.MustWrap("pkg: T.Handler", none) })
	}
	assert.NotPanics(t, func() { nils.MustWrap("pkg: T.Handler", http.NewServeMux()) })
}
