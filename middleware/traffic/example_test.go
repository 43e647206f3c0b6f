package traffic_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
)

// Requests are counted by route, and a leaderboard by product. In a cluster the
// store is redistraffic.New(rdb, nil).
func Example() {
	figures, err := traffic.New(traffic.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	sold, err := figures.Board("sold", nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /buy/{product}", func(_ http.ResponseWriter, r *http.Request) {
		sold.Add(r.PathValue("product"), 1)
	})
	isAdmin := func(r *http.Request) bool { return r.Header.Get("X-Admin") == "yes" } // such as by the session's user
	mux.Handle("GET /traffic", figures.Dashboard(isAdmin))

	shop := figures.Handler(mux)
	for _, product := range []string{"teapot", "cup", "teapot", "kettle", "teapot", "cup"} {
		shop.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/buy/"+product, nil))
	}

	ctx := context.Background()
	if err := figures.Close(ctx); err != nil { // flushes; while it runs that happens every second
		log.Fatal(err)
	}
	top, err := sold.Top(ctx, traffic.AllTime, 2)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range top {
		fmt.Println(e.Rank, e.Member, e.Score)
	}
	report, err := figures.Report(ctx, time.Now().Add(-time.Hour), time.Now(), traffic.UnitMinute)
	if err != nil {
		log.Fatal(err)
	}
	for _, route := range report.Routes {
		fmt.Println(route.Name, route.Requests())
	}
	fmt.Println("visitors:", report.Visitors)
	// Output:
	// 1 teapot 3
	// 2 cup 2
	// POST /buy/{product} 6
	// visitors: 1
}
