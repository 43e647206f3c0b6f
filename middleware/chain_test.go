package middleware_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/herdless/herdless/middleware"
)

// note writes its name into the response on the way in and on the way out.
func note(name string) middleware.Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, name+"(")
			next.ServeHTTP(w, r)
			fmt.Fprint(w, ")")
		})
	}
}

var page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page") })

func answer(h http.Handler) string {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	return rec.Body.String()
}

func TestChainOrder(t *testing.T) {
	assert.Equal(t, "a(b(c(page)))", answer(middleware.Chain(note("a"), note("b"), note("c"))(page)))
	assert.Equal(t, "a(page)", answer(middleware.Chain(note("a"))(page)))
	assert.Equal(t, "page", answer(middleware.Chain()(page)))
	assert.Equal(t, "a(b(c(page)))", answer(middleware.Chain(middleware.Chain(note("a"), note("b")), note("c"))(page)),
		"a chain is a middleware")
}

func TestChainCopiesItsArguments(t *testing.T) {
	mw := []middleware.Middleware{note("a"), note("b")}
	chain := middleware.Chain(mw...)
	mw[0] = note("changed")
	assert.Equal(t, "a(b(page))", answer(chain(page)))
}

func TestChainRefusesNil(t *testing.T) {
	assert.PanicsWithValue(t, "middleware: Chain: argument 2 of 3 is nil", func() {
		middleware.Chain(note("a"), nil, note("c"))
	})
}

func ExampleChain() {
	logged := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Println("in:", r.URL.Path)
			next.ServeHTTP(w, r)
			fmt.Println("out")
		})
	}
	onlyGet := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				fmt.Println("refused:", r.Method)
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	h := middleware.Chain(logged, onlyGet)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		fmt.Println("handler")
	}))

	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/page", nil))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, "/page", nil))
	// Output:
	// in: /page
	// handler
	// out
	// in: /page
	// refused: PUT
	// out
}
