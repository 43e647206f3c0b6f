package purges_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// purge is one as the model knows it.
type purge struct {
	epoch  uint64
	tag    string
	prefix string
	all    bool
	soft   bool
}

func (p purge) record() purges.Record {
	switch {
	case p.all:
		return purges.All(p.soft)
	case p.tag != "":
		return purges.Tag(purges.Hash(p.tag), p.soft)
	default:
		return purges.Prefix(p.prefix, p.soft)
	}
}

func (p purge) reaches(key string, tags []string, epoch uint64) bool {
	if epoch >= p.epoch {
		return false
	}
	if p.tag != "" {
		return slices.Contains(tags, p.tag)
	}
	return p.all || strings.HasPrefix(key, p.prefix)
}

// In whatever order purges become known, the table says what going through all of
// them would say.
func TestTheTableAgainstAModel(t *testing.T) {
	texts := rapid.SampledFrom([]string{"a", "ab", "abc", "b", "ba"})
	drawPurge := rapid.Custom(func(t *rapid.T) purge {
		p := purge{epoch: rapid.Uint64Range(1, 20).Draw(t, "epoch"), soft: rapid.Bool().Draw(t, "soft")}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			p.all = true
		case 1, 2:
			p.tag = texts.Draw(t, "tag")
		default:
			p.prefix = texts.Draw(t, "prefix")
		}
		return p
	})
	rapid.Check(t, func(t *rapid.T) {
		var table purges.Table
		list := rapid.SliceOf(drawPurge).Draw(t, "purges")
		for _, p := range list {
			table.Add(p.epoch, p.record())
		}
		floor := rapid.Uint64Range(0, 5).Draw(t, "floor")
		table.Raise(floor)
		for range 20 {
			key, tags := texts.Draw(t, "key"), rapid.SliceOf(texts).Draw(t, "tags")
			epoch := rapid.Uint64Range(0, 20).Draw(t, "epoch")
			want := purges.Valid
			for _, p := range list {
				switch {
				case !p.reaches(key, tags, epoch):
				case p.soft:
					want = max(want, purges.Stale)
				default:
					want = purges.Gone
				}
			}
			if epoch < floor {
				want = purges.Gone
			}
			require.Equal(t, want, table.Verdict(key, purges.Hashes(tags), epoch), "%q %q in %d", key, tags, epoch)
		}
	})
}

// A table that forgets is one that says Gone too often, never Valid.
func TestAFullTableForgetsOnTheSafeSide(t *testing.T) {
	table := purges.Table{Limit: 100}
	const purged = 10_000
	for i := uint64(1); i <= purged; i++ {
		table.Add(i, purges.Tag(i, false))
	}
	for i := uint64(1); i <= purged; i++ {
		assert.Equal(t, purges.Gone, table.Verdict("key", []uint64{i}, i-1))
	}
	assert.Equal(t, purges.Valid, table.Verdict("key", []uint64{7}, purged-10), "what is younger than the records is known exactly")
	assert.Equal(t, purges.Valid, table.Verdict("key", nil, purged))
}

func TestRecordsAreParsedAsTheyWereWritten(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range []purges.Record{
		purges.Tag(1, false), purges.Tag(1, true), purges.Tag(2, false), purges.Prefix("a", false), purges.Prefix("a", true),
		purges.Prefix("b", false), purges.Prefix("aa", false), purges.All(false), purges.All(true),
	} {
		b := string(r.AppendBinary(nil))
		assert.Len(t, b, purges.RecordSize)
		assert.False(t, seen[b], "%x", b)
		seen[b] = true
		got, err := purges.Parse(b)
		require.NoError(t, err)
		assert.Equal(t, r, got)
	}
	assert.Equal(t, purges.All(true), purges.Prefix("", true))
	for _, b := range []string{"", "short", strings.Repeat("\xff", purges.RecordSize), strings.Repeat("\x00", purges.RecordSize), fmt.Sprint("\x01\x02", strings.Repeat("x", purges.RecordSize-2))} {
		_, err := purges.Parse(b)
		require.Error(t, err, "%x", b)
	}
}
