package middleware_test

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestUploadsLeaveNoFiles: net/http removes the files of an upload that is too long for
// memory, but not those of a copy of its request, which is what handlers get here.
func TestUploadsLeaveNoFiles(t *testing.T) {
	for name, wrap := range eachMiddleware(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			found := 0
			server := httptest.NewServer(wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				assert.NoError(t, r.ParseMultipartForm(1))
				files, err := os.ReadDir(dir)
				assert.NoError(t, err)
				found = len(files)
			})))
			t.Cleanup(server.Close)
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			part, err := form.CreateFormFile("file", "name")
			require.NoError(t, err)
			_, err = part.Write(make([]byte, 100<<10))
			require.NoError(t, err)
			require.NoError(t, form.Close())
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, &body)
			require.NoError(t, err)
			req.Header.Set("Content-Type", form.FormDataContentType())
			if name == "idempotency" {
				req.Header.Set("Idempotency-Key", "k")
			}
			resp, err := server.Client().Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 1, found, "the upload is to be a file, or this shows nothing")
			assert.Eventually(t, func() bool {
				files, err := os.ReadDir(dir)
				return err == nil && len(files) == 0
			}, 10*time.Second, time.Millisecond)
		})
	}
}
