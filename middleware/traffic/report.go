package traffic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// bucketsAtOnce is how many buckets are read at a time, so that a report on whatever
// time takes some 50 MB at most: a bucket with all rows is 250 KB, 100 more with their
// names, and as much again when it is decoded.
const bucketsAtOnce = 64

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
// step. It reads what was flushed: the last second or so is missing. It takes a
// command, and a round trip, for each 64 minutes, hours or days, and one round trip
// with a command for the whole and for each point.
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
	buckets, groups := slices.Clone(whole), [][]Bucket{whole}
	out := &Report{From: whole[0].Start(), To: whole[len(whole)-1].end(now)}
	for n := first.N; n <= last.N; n++ {
		b := Bucket{step, n}
		if !slices.Contains(whole, b) {
			buckets = append(buckets, b)
		}
		groups = append(groups, []Bucket{b})
		out.Points = append(out.Points, Point{Start: b.Start(), Length: b.end(now).Sub(b.Start())})
	}
	sums := make(rowSums)
	for piece := range slices.Chunk(buckets, bucketsAtOnce) {
		counted, err := r.store.Counters(ctx, piece)
		if err == nil && len(counted) != len(piece) {
			err = errLeftOut
		}
		if err != nil {
			return nil, fmt.Errorf("traffic: report: %w", err)
		}
		for i, b := range piece {
			if slices.Contains(whole, b) {
				sums.add(counted[i])
			}
			if b.Unit == step && b.N >= first.N && b.N <= last.N {
				out.Points[b.N-first.N].add(counted[i])
			}
		}
	}
	visitors, err := r.store.Visitors(ctx, groups)
	if err == nil && len(visitors) != len(groups) {
		err = errLeftOut
	}
	if err != nil {
		return nil, fmt.Errorf("traffic: report: %w", err)
	}
	out.Visitors = visitors[0]
	for i := range out.Points {
		out.Points[i].Visitors = visitors[i+1]
	}
	out.total(sums)
	return out, nil
}

var errLeftOut = errors.New("the store has left something out")

func (p *Point) add(rows []Row) {
	for i := range rows {
		if rows[i].Kind == KindRoute {
			p.Add(&rows[i].Counters)
		}
	}
}

type rowSums map[rowKey]*Counters

func (sums rowSums) add(rows []Row) {
	for i := range rows {
		k := rowKey{rows[i].Kind, rows[i].Name}
		if sums[k] == nil {
			sums[k] = new(Counters)
		}
		sums[k].Add(&rows[i].Counters)
	}
}

// total makes the totals, and the rows of routes and nodes, of the sums.
func (out *Report) total(sums rowSums) {
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
