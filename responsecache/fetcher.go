package responsecache

import (
	"context"

	"github.com/herdless/herdless/cache"
)

// fetcher is the exchange as the engine sees it, at one spot: a refresh in the
// background may use it while the exchange goes on to another one.
type fetcher struct {
	x    *exchange
	spot spot
	room cache.Room
}

// fetcher returns the one for the present spot.
func (x *exchange) fetcher() *fetcher {
	f := &x.first
	if f.x != nil {
		f = new(fetcher)
	}
	f.x, f.spot = x, x.spot
	return f
}

// Judge implements cache.Fetcher.
func (f *fetcher) Judge(e cache.Entry) cache.Verdict { return f.x.verdict(f.spot.key, e) }

// Load implements cache.Fetcher.
func (f *fetcher) Load(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
	return f.x.load(ctx, l, f.spot)
}

// Refresh implements cache.Fetcher.
func (f *fetcher) Refresh(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
	return f.x.loadInBackground(ctx, l, f.spot)
}
