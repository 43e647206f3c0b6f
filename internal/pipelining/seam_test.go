package pipelining

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSeamChooses(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name          string
		seam          seam
		waiting       int
		single, stays bool
		want          way
	}{
		{"nobody is there", seam{}, 0, false, true, alone},
		{"a few are", seam{alone: maxAlone - 1}, 0, false, true, alone},
		{"as many as go alone are", seam{alone: maxAlone}, 0, false, true, together},
		{"a crowd waits", seam{}, crowd - 1, false, true, together},
		{"a crowd is under way", seam{flying: crowd - 1}, 0, false, true, together},
		{"less than a crowd is under way", seam{flying: crowd - 2}, 0, false, true, alone},
		{"there was a crowd", seam{crowded: now.Add(-stalled)}, 0, false, true, together},
		{"there was one long ago", seam{crowded: now.Add(-stalled - 1)}, 0, false, true, alone},
		{"it is big", seam{alone: maxAlone, crowded: now}, crowd, true, true, alone},
		{"answers are big", seam{alone: maxAlone, reply: bigReply}, crowd, false, true, alone},
		{"it may have to leave", seam{}, 0, false, false, together},
		{"it is big, and may have to leave", seam{}, 0, true, false, leavable},
	} {
		before := tt.seam.alone
		assert.Equal(t, tt.want, tt.seam.choose(now, tt.waiting, tt.single, tt.stays), tt.name)
		assert.Equal(t, tt.want == alone, tt.seam.alone == before+1, "%s: those that go alone are counted", tt.name)
	}
}

func TestSeamHasAnotherSender(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name    string
		seam    seam
		waiting int
		begins  bool
		least   int
	}{
		{"there is none", seam{}, 1, true, 1},
		{"one is at it", seam{senders: 1, last: now, flying: 1}, crowd - 1, false, 0},
		{"a crowd waits for it", seam{senders: 1, last: now, flying: 1}, crowd, true, crowd},
		{"but it has more", seam{senders: 1, last: now, flying: crowd + 1}, crowd, false, 0},
		{"it has stalled", seam{senders: 1, last: now.Add(-stalled - 1), flying: maxTogether}, 1, true, 1},
		{"there are as many as there may be", seam{senders: maxSenders, last: now.Add(-time.Minute)}, maxTogether, false, 0},
	} {
		begins, least := tt.seam.another(now, tt.waiting)
		assert.Equal(t, tt.begins, begins, tt.name)
		if begins {
			assert.Equal(t, tt.least, least, tt.name)
		}
	}
	for _, tt := range []struct {
		senders, waiting, least int
		want                    bool
	}{
		{1, 0, crowd, true}, // there is nobody else who would
		{2, crowd - 1, crowd, false},
		{2, crowd, crowd, true},
		{2, 1, 1, true},
	} {
		assert.Equal(t, tt.want, (&seam{senders: tt.senders}).goesOn(tt.waiting, tt.least), "%+v", tt)
	}
}

// The size of answers is an average: one big one does not make all that follow go alone,
// and many do.
func TestSeamNotesSizes(t *testing.T) {
	var s seam
	s.note(4 * bigReply)
	assert.Less(t, s.reply, bigReply)
	for range 20 {
		s.note(2 * bigReply)
	}
	assert.GreaterOrEqual(t, s.reply, bigReply)
	for range 50 {
		s.note(100)
	}
	assert.Less(t, s.reply, bigReply)
}
