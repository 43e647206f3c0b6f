package cache

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/herdless/herdless/internal/durations"
)

// Policy says how the values of a Namespace are kept. The zero value of a field
// means its default; TTL has none.
//
// Times must be at least a millisecond, if they are set: 60 is 60 ns, and a minute is
// 60 * time.Second.
type Policy struct {
	// TTL is how long a value is fresh. Required. A store may not keep it as
	// long: see rediscache.Options.Retention, and the bounds of the stores.
	TTL time.Duration

	// Jitter shortens each TTL by a random part of it, up to this fraction, so
	// that what was stored together does not end together. Less than 1, default 0.
	Jitter float64

	// NegativeTTL is how long it is remembered that there is nothing under a
	// key (see ErrNotFound). Default 0: it is not.
	NegativeTTL time.Duration

	// StaleWhileRevalidate is for how long after its TTL a value is returned
	// all the same, while one caller in the cluster loads a new one in the
	// background (RFC 5861 §3). Default 0.
	StaleWhileRevalidate time.Duration

	// StaleIfError is for how long after its TTL a value is returned if
	// loading a new one fails, takes longer than SoftLoadTimeout, or is done
	// by somebody else for longer than WaitTimeout (RFC 5861 §4). Default 0.
	StaleIfError time.Duration

	// EarlyRefresh makes a value that is about to end be loaded anew in the
	// background by a caller that happens to ask before: the earlier, the
	// longer the load takes and the larger this factor. It is β of Vattani,
	// Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede
	// Prevention" (VLDB 2015), where 1 is a good choice. Default 0: never.
	EarlyRefresh float64

	// LoadTimeout ends the context of a load, and the waiting for it. Default
	// 30 s, at most 10 min.
	LoadTimeout time.Duration

	// SoftLoadTimeout is how long callers wait for a load while there is a
	// value that StaleIfError lets them have. Then they get that, and the load
	// goes on. Default 0: they wait for the outcome.
	SoftLoadTimeout time.Duration

	// WaitTimeout is how long a caller waits for what another one loads. Then
	// it gets a stale value if StaleIfError lets it; else it loads for itself
	// and for the others of its process that have waited as long, or with
	// GiveUp it gets ErrWaitTimeout. Default that of the Engine.
	WaitTimeout time.Duration
	GiveUp      bool

	// Backoff is for how long the failure of a load is returned to those who
	// ask for the same key in the same process, without another try. Processes
	// that waited for that load take part, others try once themselves. A value
	// that is stored meanwhile ends it, a Delete does not. ErrNotFound is no
	// failure. Default 500 ms.
	Backoff time.Duration

	// WriteTimeout is how long Put's write may take before other processes may
	// cache again what they load meanwhile. Default 1 min.
	WriteTimeout time.Duration

	// Schema is the version of the encoding of the values. What was stored
	// under another one is as good as not there. Raise it whenever the type or
	// its encoding changes its meaning: JSON reads the bytes of another struct
	// without complaint. While two versions run, each loads what the other has
	// stored.
	Schema uint32
}

const (
	defaultLoadTimeout  = 30 * time.Second
	defaultBackoff      = 500 * time.Millisecond
	defaultWriteTimeout = time.Minute
)

// validate returns all that is wrong with the policy.
func (p *Policy) validate() error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("cache: Policy."+format, args...))
		}
	}
	fault(p.TTL <= 0, "TTL is %v, it must be positive: say how long a value is fresh", p.TTL)
	short := durations.Fault(p.TTL)
	fault(short != "", "TTL %s", short)
	fault(!(p.Jitter >= 0 && p.Jitter < 1), "Jitter is %v, it must be at least 0 and less than 1", p.Jitter)
	fault(!(p.EarlyRefresh >= 0) || math.IsInf(p.EarlyRefresh, 0), "EarlyRefresh is %v, it must not be negative", p.EarlyRefresh)
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"NegativeTTL", p.NegativeTTL},
		{"StaleWhileRevalidate", p.StaleWhileRevalidate},
		{"StaleIfError", p.StaleIfError},
		{"LoadTimeout", p.LoadTimeout},
		{"SoftLoadTimeout", p.SoftLoadTimeout},
		{"WaitTimeout", p.WaitTimeout},
		{"Backoff", p.Backoff},
		{"WriteTimeout", p.WriteTimeout},
	} {
		fault(d.value < 0, "%s is %v, it must not be negative", d.name, d.value)
		short := durations.Fault(d.value)
		fault(short != "", "%s %s", d.name, short)
	}
	fault(p.LoadTimeout > fillTTL, "LoadTimeout is %v, it must not be more than %v", p.LoadTimeout, fillTTL)
	return errors.Join(faults...)
}

// lifetime returns for how long a value that was just loaded is fresh.
func (p *Policy) lifetime(ttl time.Duration) time.Duration {
	if p.Jitter == 0 || ttl <= 0 {
		return ttl
	}
	return max(1, ttl-time.Duration(rand.Float64()*p.Jitter*float64(ttl)))
}

// isEarly chooses, at random, who refreshes a fresh entry ahead of time.
func (p *Policy) isEarly(e Entry) bool {
	if p.EarlyRefresh == 0 {
		return false
	}
	ahead := float64(e.Cost) * p.EarlyRefresh * rand.ExpFloat64()
	return ahead >= float64(e.TTL)
}

// judge says what is to be done with an entry whose value is whole.
func (p *Policy) judge(e Entry) Verdict {
	stale := -e.TTL
	switch {
	case e.TTL > 0 && !p.isEarly(e):
		return Use
	case e.TTL > 0:
		return UseAndRefresh
	case e.Kind != Value:
		return Reject
	case p.StaleWhileRevalidate > 0 && stale <= p.StaleWhileRevalidate:
		return UseAndRefresh
	case p.StaleIfError > 0 && stale <= p.StaleIfError:
		return FallBack
	}
	return Reject
}
