package traffic_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func everybody(*http.Request) bool { return true }

func TestTheDashboardIsClosed(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	assert.Equal(t, http.StatusNotFound, get(r.Dashboard(nil), "/").Code)
	assert.Equal(t, http.StatusNotFound, get(r.Dashboard(nil), "/?format=json").Code)
	admin := r.Dashboard(func(r *http.Request) bool { return r.Header.Get("X-Admin") == "yes" })
	w := get(admin, "/?format=json")
	assert.Equal(t, http.StatusForbidden, w.Code)
	assert.NotContains(t, w.Body.String(), "requests")
	assert.Equal(t, http.StatusOK, get(admin, "/", func(r *http.Request) { r.Header.Set("X-Admin", "yes") }).Code)
	assert.Equal(t, http.StatusBadRequest, get(r.Dashboard(everybody), "/?window=year").Code)
	post := get(r.Dashboard(everybody), "/", func(r *http.Request) { r.Method = http.MethodPost })
	assert.Equal(t, http.StatusMethodNotAllowed, post.Code)
	assert.Equal(t, "GET, HEAD", post.Header().Get("Allow"))
}

// busy returns a Recorder with some figures.
func busy(t *testing.T) *traffic.Recorder {
	t.Helper()
	r := newRecorder(t, traffic.NewMemoryStore(), &traffic.Options{Node: "web<1>"})
	for i := range 100 {
		h := traffic.Hit{
			Route: "GET /product/{id}", Path: fmt.Sprint("/product/", int(math.Sqrt(float64(i)))), Status: 200, Bytes: 1000,
			Latency: time.Duration(i) * time.Millisecond, Cache: traffic.CacheHit, Visitor: fmt.Sprint(i % 10),
		}
		if i%4 == 0 {
			h.Status, h.Cache, h.Path = 500, traffic.CacheMiss, "/<script>alert(1)</script>"
		}
		r.Record(h)
	}
	require.NoError(t, r.Flush(t.Context()))
	return r
}

func TestTheDashboardAsJSON(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		w := get(busy(t).Dashboard(everybody), "/traffic?format=json&window=hour")
		require.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		var f struct {
			Total struct {
				Requests  uint64
				Status    map[string]uint64
				Bytes     uint64
				LatencyMs map[string]float64
				Cache     struct {
					Lookups, Hits uint64
					HitRatio      float64
				}
				Visitors uint64
			}
			Points []struct {
				Start    time.Time
				Requests uint64
				Visitors uint64
			}
			Routes, Nodes []struct {
				Name     string
				Requests uint64
			}
			Boards map[string][]traffic.Entry
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &f))
		assert.Equal(t, uint64(100), f.Total.Requests)
		assert.Equal(t, map[string]uint64{"1xx": 0, "2xx": 75, "3xx": 0, "4xx": 0, "5xx": 25}, f.Total.Status)
		assert.Equal(t, uint64(100_000), f.Total.Bytes)
		assert.Equal(t, uint64(10), f.Total.Visitors)
		assert.InDelta(t, 0.75, f.Total.Cache.HitRatio, 1e-9)
		for name, want := range map[string]float64{"mean": 49.5, "p50": 50, "p90": 90, "p99": 99} {
			assert.InEpsilon(t, want, f.Total.LatencyMs[name], 0.13, name)
		}
		var requests uint64
		for _, p := range f.Points {
			requests += p.Requests
		}
		assert.Equal(t, uint64(100), requests)
		assert.InDelta(t, 61, len(f.Points), 1)
		require.Len(t, f.Routes, 1)
		assert.Equal(t, "GET /product/{id}", f.Routes[0].Name)
		require.Len(t, f.Nodes, 1)
		require.NotEmpty(t, f.Boards["paths"])
		assert.Equal(t, traffic.Entry{Rank: 1, Member: "/<script>alert(1)</script>", Score: 25}, f.Boards["paths"][0])
	})
}

func TestTheDashboardLoadsNothing(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		for _, window := range []string{"", "hour", "day", "month"} {
			w := get(busy(t).Dashboard(everybody), "/traffic?window="+window)
			require.Equal(t, http.StatusOK, w.Code)
			page := w.Body.String()
			policy := w.Header().Get("Content-Security-Policy")
			require.Contains(t, policy, "default-src 'none'")
			assert.NotContains(t, policy, "unsafe")
			for _, element := range []string{"style", "script"} {
				source := regexp.MustCompile("(?s)<" + element + ">(.*?)</" + element + ">").FindStringSubmatch(page)
				require.Len(t, source, 2, element)
				sum := sha256.Sum256([]byte(source[1]))
				assert.Contains(t, policy, element+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
			}
			assert.NotRegexp(t, `(?i)(src|xlink:href|action)=|url\(|@import|style="|\son\w+="|https?://`, page)
			assert.NotContains(t, page, "<script>alert", "what comes from outside is text")
			assert.Contains(t, page, "&lt;script&gt;alert")
			assert.Contains(t, page, "web&lt;1&gt;")
			assert.Equal(t, 4, strings.Count(page, `<svg viewBox="0 -16`))
			assert.NotContains(t, page, "NaN")
			assert.NotRegexp(t, `<polyline class="\w+" points="[^ "]+"`, page, "a line of one point is not drawn")
			assert.Contains(t, page, "</html>")
			for _, id := range []string{"traffic", "ended", "away"} {
				assert.Equal(t, 1, strings.Count(page, ` id="`+id+`"`), "the script looks for it")
			}
		}
		empty := newRecorder(t, traffic.NewMemoryStore(), nil)
		page := get(empty.Dashboard(everybody), "/").Body.String()
		assert.Contains(t, page, "Nothing yet.")
		assert.NotContains(t, page, "NaN")
	})
}

func TestTheDashboardWhileTheStoreIsAway(t *testing.T) {
	r := newRecorder(t, unreadable{traffic.NewMemoryStore()}, nil)
	w := get(r.Dashboard(everybody), "/")
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.NotContains(t, w.Body.String(), errAway.Error())
}

func TestTheDashboardOverHTTP(t *testing.T) {
	server := httptest.NewServer(busy(t).Dashboard(everybody))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, resp.ContentLength, int64(len(body)))
}

// TestAnEmptyDashboardAsJSON: programs go through lists, and null is none.
func TestAnEmptyDashboardAsJSON(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	w := get(r.Dashboard(everybody), "/?format=json")
	require.Equal(t, http.StatusOK, w.Code)
	assert.NotContains(t, w.Body.String(), "null")
}
