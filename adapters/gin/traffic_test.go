package ginadapter_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/middleware/traffic"
)

// Requests to a gin router are counted by gin's routes, with the status that was sent.
func TestTrafficByRoute(t *testing.T) {
	figures, err := traffic.New(traffic.NewMemoryStore(), &traffic.Options{Node: "web", Interval: time.Hour})
	require.NoError(t, err)
	defer func() { require.NoError(t, figures.Close(context.Background())) }()
	r := gin.New()
	r.Use(gin.CustomRecovery(func(c *gin.Context, _ any) { c.AbortWithStatus(http.StatusInternalServerError) }))
	r.Use(ginadapter.Wrap(figures.Handler))
	r.GET("/product/:id", func(c *gin.Context) {
		assert.Equal(t, "/product/:id", c.FullPath())
		c.String(http.StatusOK, "product %s", c.Param("id"))
	})
	r.GET("/refused", func(c *gin.Context) { c.AbortWithStatus(http.StatusTeapot) })
	r.GET("/broken", func(*gin.Context) { panic("broken") })
	for _, path := range []string{"/product/1", "/product/22", "/refused", "/broken", "/nothing"} {
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
	}
	require.NoError(t, figures.Flush(t.Context()))
	report, err := figures.Report(t.Context(), time.Now().Add(-time.Minute), time.Now().Add(time.Minute), traffic.UnitMinute)
	require.NoError(t, err)
	got := map[string][5]uint64{}
	for _, row := range report.Routes {
		got[row.Name] = row.Status
	}
	assert.Equal(t, map[string][5]uint64{"GET /product/:id": {1: 2}, "GET /refused": {3: 1}, "GET /broken": {4: 1}, "": {3: 1}}, got)
	assert.Equal(t, uint64(len("product 1product 22404 page not found")), report.Total.Bytes)
}
