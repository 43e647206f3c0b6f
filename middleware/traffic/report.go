package traffic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Report is what happened in some time, on all servers.
type Report struct {
	// From and To are the time that it is about: what was asked for, extended to
	// whole minutes, to whole hours where From is more than two hours ago, and to
	// whole days where it is more than eight days ago.
	From, To time.Time
	// Total is everything, Routes and Nodes the same by route and by server,
	// most requests first. A route without a pattern has the name "".
	Total  Counters
	Routes []Row
	Nodes  []Row
	// Visitors is how many different visitors there were. Visitors have another
	// name each day, so that one who came on two days counts twice.
	Visitors uint64
	// Points are the same by minute, hour or day.
	Points []Point
}

// Point is a part of a Report's time.
type Point struct {
	Start  time.Time
	Length time.Duration // less than the unit for the one that is not over
	Counters
	Visitors uint64
}

// PerSecond returns how many requests there were in a second.
func (p *Point) PerSecond() float64 {
	if p.Length <= 0 {
		return 0
	}
	return float64(p.Requests()) / p.Length.Seconds()
}

// Report returns what happened from a time to another one, with Points of the unit
// step. It reads what was flushed: the last second or so is missing. It takes two
// round trips, and two commands and one for each point.
//
// A time that lies ahead is the present, on the store's clock. It is an error if from
// is longer ago than the store keeps points of this unit: two hours for minutes, eight
// days for hours, 400 days for days.
func (r *Recorder) Report(ctx context.Context, from, to time.Time, step Unit) (*Report, error) {
	now := r.clock.now()
	if to.After(now) {
		to = now
	}
	if step >= UnitAll || !from.Before(to) {
		return nil, fmt.Errorf("traffic: a report from %v to %v by %v is not possible: the end must come after the beginning, and the unit be minute, hour or day", from, to, step)
	}
	first, last := BucketOf(step, from), BucketOf(step, to.Add(-1))
	if !first.kept(step.Keep(), now) {
		return nil, fmt.Errorf("traffic: a report from %v on by %v is not possible: %vs are kept for %v", from, step, step, step.Keep()-step.Duration())
	}
	whole := cover(from, to, now)
	buckets := slices.Clone(whole)
	groups := [][]Bucket{whole}
	for n := first.N; n <= last.N; n++ {
		buckets = append(buckets, Bucket{step, n})
		groups = append(groups, []Bucket{{step, n}})
	}
	counted, err := r.store.Counters(ctx, buckets)
	var visitors []uint64
	if err == nil {
		visitors, err = r.store.Visitors(ctx, groups)
	}
	if err == nil && (len(counted) != len(buckets) || len(visitors) != len(groups)) {
		err = errors.New("the store has left something out")
	}
	if err != nil {
		return nil, fmt.Errorf("traffic: report: %w", err)
	}
	out := &Report{From: whole[0].Start(), To: whole[len(whole)-1].end(now), Visitors: visitors[0]}
	out.add(counted[:len(whole)])
	for i, rows := range counted[len(whole):] {
		b := groups[i+1][0]
		p := Point{Start: b.Start(), Length: b.end(now).Sub(b.Start()), Visitors: visitors[i+1]}
		for i := range rows {
			if rows[i].Kind == KindRoute {
				p.Add(&rows[i].Counters)
			}
		}
		out.Points = append(out.Points, p)
	}
	return out, nil
}

func (out *Report) add(counted [][]Row) {
	sums := map[rowKey]*Counters{}
	for _, rows := range counted {
		for i := range rows {
			row := &rows[i]
			k := rowKey{row.Kind, row.Name}
			if sums[k] == nil {
				sums[k] = new(Counters)
			}
			sums[k].Add(&row.Counters)
		}
	}
	for k, c := range sums {
		switch k.kind {
		case KindRoute:
			out.Total.Add(c)
			out.Routes = append(out.Routes, Row{k.kind, k.name, *c})
		case KindNode:
			out.Nodes = append(out.Nodes, Row{k.kind, k.name, *c})
		}
	}
	for _, rows := range [][]Row{out.Routes, out.Nodes} {
		slices.SortFunc(rows, func(a, b Row) int {
			return cmp.Or(cmp.Compare(b.Requests(), a.Requests()), cmp.Compare(a.Name, b.Name))
		})
	}
}

// end returns when the bucket ends, or now if that comes first.
func (b Bucket) end(now time.Time) time.Time {
	if end := b.Start().Add(b.Unit.Duration()); end.Before(now) {
		return end
	}
	return now.UTC()
}

// cover returns buckets that make up the time from from to to, as few as there can
// be of those that are kept. A bucket that is not over stands for its whole length.
func cover(from, to, now time.Time) []Bucket {
	var list []Bucket
	for t := from; t.Before(to); {
		least := UnitMinute
		for least < UnitDay && !BucketOf(least, t).kept(least.Keep(), now) {
			least++
		}
		b := BucketOf(least, t)
		for u := least + 1; u <= UnitDay; u++ {
			longer := b.In(u)
			if end := longer.Start().Add(u.Duration()); longer.Start().Equal(b.Start()) && (!end.After(to) || !to.Before(now) && end.After(now)) {
				b = longer
			}
		}
		list = append(list, b)
		t = b.Start().Add(b.Unit.Duration())
	}
	return list
}
