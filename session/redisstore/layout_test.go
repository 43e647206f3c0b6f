package redisstore

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// written is a session as session.lua writes it.
func written(s stored, takenBy string, padding int) string {
	var b []byte
	for _, e := range s.values {
		b = append(b, e.Data...)
	}
	s.number[headAt] = int64(len(b))
	at := len(b)
	b = append(append(b, magic...), s.digest...)
	for _, n := range s.number {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(n)))
	}
	text := func(t string) { b = append(binary.LittleEndian.AppendUint32(b, uint32(len(t))), t...) }
	for _, t := range []string{s.superseded, s.earlier, s.handover, s.owner, s.meta, takenBy} {
		text(t)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.values)))
	begins := 0
	for _, e := range s.values {
		text(e.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(begins))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Data)))
		begins += len(e.Data)
	}
	b = append(b, make([]byte, padding)...)
	length := uint32(len(b) - at)
	return string(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, uint32(padding)), length))
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, name)) }
		want := stored{
			digest:     string(rapid.SliceOfN(rapid.Byte(), digestLen, digestLen).Draw(t, "digest")),
			superseded: text("superseded"), earlier: text("earlier"), handover: text("handover"), owner: text("owner"), meta: text("meta"),
			values: session.ValuesOf(rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.Byte())).Draw(t, "values")),
		}
		for i := range want.number {
			want.number[i] = rapid.Int64Range(0, 1<<53-1).Draw(t, "number")
		}
		if len(want.values) == 0 {
			want.values = nil
		}
		want.number[headAt] = 0
		for _, e := range want.values {
			want.number[headAt] += int64(len(e.Data))
		}
		raw := written(want, text("taken by"), rapid.IntRange(0, 50).Draw(t, "padding"))
		got, ok := parse(nil, raw, true)
		require.True(t, ok)
		require.Equal(t, want, got)
		is, sure := isAlive(raw[max(0, len(raw)-endLen):])
		require.Equal(t, is, sure && want.number[taken] == 0)
		require.True(t, sure == (want.number[taken] == 0) || !sure && len(raw) >= endLen)

		cut := rapid.IntRange(0, len(raw)-1).Draw(t, "cut")
		_, ok = parse(nil, raw[:cut], true)
		require.False(t, ok, "cut at %d of %d", cut, len(raw))
		_, ok = parse(nil, raw+"x", true)
		require.False(t, ok, "with something behind it")
	})
}

// TestAPart: the last 4 KiB of a session are taken for what they are, wherever that cuts it.
func TestAPart(t *testing.T) {
	of := func(lengths ...int) stored {
		s := stored{digest: string(make([]byte, digestLen))}
		for i, n := range lengths {
			s.values = append(s.values, session.Entry{Name: string(rune('a' + i)), Data: strings.Repeat(string(rune('A'+i)), n)})
			s.number[headAt] += int64(n)
		}
		return s
	}
	for first := range 4200 {
		all := of(first, 300, 0)
		raw := written(all, "", 0)
		part := raw[max(0, len(raw)-partLen):]
		got, ok := parse(nil, part, false)
		require.True(t, ok, first)
		require.Equal(t, len(part) < len(raw), got.values[0].LeftOut > 0, first)
		if got.values[0].LeftOut > 0 {
			require.Equal(t, session.Entry{Name: "a", LeftOut: first}, got.values[0])
			got.values[0] = all.values[0]
		}
		require.Equal(t, all, got)
		if len(part) < len(raw) {
			_, ok = parse(nil, part, true)
			require.False(t, ok, "it is not all")
			_, ok = parse(nil, part[1:], false)
			require.False(t, ok, "nor is it what was asked for")
		}
	}
	long := []byte(written(of(partLen), "", 0))
	at := partLen + len(magic) + digestLen + headAt*8
	binary.LittleEndian.PutUint64(long[at:], math.Float64bits(math.MaxInt32+1))
	_, ok := parse(nil, string(long[len(long)-partLen:]), false)
	require.False(t, ok, "longer than it can be")
}

// FuzzParse: whatever stands in Redis is read without a panic, and what is read is what
// stands there.
func FuzzParse(f *testing.F) {
	s := stored{digest: string(make([]byte, digestLen)), owner: "placeowner", values: session.ValuesOf(map[string][]byte{"a": []byte("1"), "b": nil})}
	whole := written(s, "", 0)
	f.Add(whole)
	f.Add(written(s, "taker", 3))
	f.Add(whole[:len(whole)-1])
	f.Add("")
	f.Fuzz(func(t *testing.T, raw string) {
		_, _ = parse(nil, raw[max(0, len(raw)-partLen):], false) // must not panic
		got, ok := parse(nil, raw, true)
		if !ok {
			return
		}
		size := 0
		for _, e := range got.values {
			size += len(e.Name) + 12
			assert.Contains(t, raw, e.Data)
		}
		assert.LessOrEqual(t, size, len(raw))
		for _, n := range got.number {
			assert.True(t, n >= 0 && n < 1<<53)
		}
	})
}
