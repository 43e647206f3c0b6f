package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/gin-gonic/gin"
	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/responsecache"
)

// newProxy returns the handler of all requests.
func newProxy(c *config, log *slog.Logger) (handler http.Handler, closeStores func() error, err error) {
	store, locker, closeStores, err := openStores(c)
	if err != nil {
		return nil, nil, err
	}
	var router *gin.Engine
	o := &responsecache.Options{Locker: locker, Profile: profiles[c.profile], MaxBody: c.maxBody, Logger: log}
	if c.router == "gin" {
		gin.SetMode(gin.ReleaseMode)
		router = gin.New()
		o.Refresh = router
	}
	pages, err := responsecache.New(store, o)
	if err != nil {
		return nil, nil, errors.Join(err, closeStores())
	}
	origin := newOrigin(c, log)
	if router == nil {
		return withPurge(pages, c.purgeToken, pages.Handler(origin)), closeStores, nil
	}
	router.Use(ginadapter.Wrap(pages.Handler))
	router.NoRoute(func(ctx *gin.Context) {
		ctx.Status(http.StatusOK) // not gin's 404
		origin.ServeHTTP(ctx.Writer, ctx.Request)
	})
	return withPurge(pages, c.purgeToken, router), closeStores, nil
}

func openStores(c *config) (cache.Store, *lock.Locker, func() error, error) {
	if c.redis == "" {
		locker, err := lock.New(lock.NewMemoryStore(), nil)
		return cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: int64(c.maxSize)}), locker, func() error { return nil }, err
	}
	rdb, err := redisconn.Open(c.redis)
	if err != nil {
		return nil, nil, nil, err
	}
	locker, err := lock.New(redislock.New(rdb, nil), nil)
	if err != nil {
		return nil, nil, nil, errors.Join(err, rdb.Close())
	}
	return rediscache.New(rdb, &rediscache.Options{TierBytes: int64(c.maxSize)}), locker, rdb.Close, nil
}

// newOrigin returns a handler that asks the origin.
func newOrigin(c *config, log *slog.Logger) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // the client's choice is passed on
	transport.MaxIdleConnsPerHost = 100
	transport.ResponseHeaderTimeout = time.Minute
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// As the client wrote it: httputil leaves out what it cannot parse.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			r.SetURL(c.origin)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport:     transport,
		FlushInterval: -1, // first bytes are never held back
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if !errors.Is(err, context.Canceled) {
				log.WarnContext(r.Context(), "the origin has failed", "path", r.URL.Path, "error", err)
			}
			http.Error(w, http.StatusText(http.StatusBadGateway), http.StatusBadGateway)
		},
	}
}
