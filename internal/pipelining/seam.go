package pipelining

import "time"

// This file is the seam between commands that go by themselves and commands that go
// together: which of the two is better, and when what waits goes. All else in the package
// carries that out. The numbers were found by measuring, as BenchmarkGet and
// BenchmarkPipelined do.

const (
	// maxAlone is how many callers may be under way each by itself. What comes
	// on top goes together. Fewer hold up two or four goroutines, more make
	// eight as slow as if nothing went together.
	maxAlone = 4
	// crowd is how many callers at a time let nobody go alone, until there has been no
	// crowd for as long as stalled: four that do cost as much as all the others. And
	// it is how many must wait for another pipeline to go beside the first, and as many
	// as are under way: of two that are half as long each costs as much. If fewer are
	// enough, eight goroutines wait for one another.
	crowd = 16
	// maxTogether is how many callers' commands make up a batch at most.
	maxTogether = 128
	// maxSenders is how many batches may be under way at a time. One does, and
	// fills best, as long as its connection is well and no crowd waits.
	maxSenders = 4
	// stalled is after how long a batch holds up others no longer.
	stalled = 20 * time.Millisecond

	// bigRequest and bigReply are the bytes from which on commands go by
	// themselves. Of what is sent the size is known; of replies it is the
	// average of late.
	bigRequest = 16 << 10
	bigReply   = 16 << 10
)

// A way for commands to get to Redis.
type way int

const (
	alone    way = iota // from the goroutine that wants them
	leavable            // from a goroutine of their own, which can be left behind
	together
)

// seam is how things stand with one server.
type seam struct {
	alone   int       // callers that are under way each by itself
	flying  int       // callers whose commands are in batches under way
	senders int       // of those batches, without the forsaken
	last    time.Time // when the last batch was sent
	crowded time.Time // when all callers here were a crowd last
	reply   int       // the average size of answers of late
}

// choose says which way the commands of one more caller go, while so many wait. What is
// single cannot go together, and who stays need not be able to leave. It counts those that
// go alone.
func (s *seam) choose(now time.Time, waiting int, single, stays bool) way {
	single = single || s.reply >= bigReply
	if s.alone+s.flying+waiting+1 >= crowd {
		s.crowded = now
	}
	busy := s.alone >= maxAlone || now.Sub(s.crowded) <= stalled
	switch {
	case stays && (single || !busy):
		s.alone++
		return alone
	case single:
		return leavable
	}
	return together
}

// another reports whether one more sender is to begin while so many wait, and how many make
// a batch for it. It is if there is none, if those there are have stalled, or if a crowd
// waits for them, and as many as they have under way: then Redis has the next batch while
// this process takes in the one before. There are never more than maxSenders.
func (s *seam) another(now time.Time, waiting int) (begins bool, least int) {
	switch {
	case s.senders == 0:
		return true, 1
	case s.senders >= maxSenders:
		return false, 0
	case now.Sub(s.last) > stalled:
		return true, 1
	}
	return waiting >= max(crowd, s.flying), crowd
}

// goesOn reports whether a sender of batches of so many sends one more. The last one does in
// any case.
func (s *seam) goesOn(waiting, least int) bool { return s.senders <= 1 || waiting >= least }

// note notes the size of a caller's answers.
func (s *seam) note(size int) { s.reply += (size - s.reply) / 8 }
