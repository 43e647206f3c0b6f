package ginadapter_test

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"

	"github.com/gin-gonic/gin"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/session"
)

// A counter in a gin application's session. With several servers, the store is
// one on Redis.
func Example() {
	sessions, err := session.New(session.NewMemoryStore(), &session.Options{DangerouslyAllowHTTP: true})
	if err != nil {
		panic(err)
	}

	r := gin.New()
	r.Use(ginadapter.Wrap(sessions.Handler))
	r.GET("/visit", func(c *gin.Context) {
		ctx, s := c.Request.Context(), ginadapter.Session(c)
		var visits int
		if _, err := s.Get(ctx, "visits", &visits); err != nil {
			_ = c.AbortWithError(http.StatusServiceUnavailable, err)
			return
		}
		visits++
		if err := s.Set(ctx, "visits", visits); err != nil {
			_ = c.AbortWithError(http.StatusServiceUnavailable, err)
			return
		}
		c.JSON(http.StatusOK, gin.H{"visits": visits})
	})

	srv := httptest.NewServer(r)
	defer srv.Close()
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	for range 3 {
		res, err := browser.Get(srv.URL + "/visit")
		if err != nil {
			panic(err)
		}
		var body [64]byte
		n, _ := res.Body.Read(body[:])
		_ = res.Body.Close()
		fmt.Println(res.Status, string(body[:n]))
	}
	// Output:
	// 200 OK {"visits":1}
	// 200 OK {"visits":2}
	// 200 OK {"visits":3}
}

// Any middleware of that shape will do, the standard library's too.
func ExampleWrap() {
	r := gin.New()
	r.POST("/upload", ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.MaxBytesHandler(next, 1<<20)
	}), func(c *gin.Context) { c.Status(http.StatusNoContent) })

	rec := httptest.NewRecorder()
	r.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/upload", nil))
	fmt.Println(rec.Code)
	// Output: 204
}
