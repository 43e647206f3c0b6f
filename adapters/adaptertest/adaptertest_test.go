package adaptertest_test

import (
	"net/http"
	"testing"

	"github.com/herdless/herdless/adapters/adaptertest"
)

// ServeMux is the standard that adapters are held to.
func TestServeMux(t *testing.T) {
	adaptertest.Run(t, adaptertest.Adapter{
		New: func(_ *testing.T, mw func(http.Handler) http.Handler, routes []adaptertest.Route) http.Handler {
			mux := http.NewServeMux()
			for _, r := range routes {
				mux.HandleFunc(r.Method+" "+r.Path, r.Handler)
			}
			if mw == nil {
				return mux
			}
			return mw(mux)
		},
	})
}
