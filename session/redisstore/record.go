package redisstore

import (
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/session"
)

// The fields of a session's hash that Load needs, see commit.lua. Metadata have
// one-letter names; a value's name stands behind the tag v, so that no value can
// pass for metadata.
const (
	fieldDigest     = "d"
	fieldSuperseded = "p"
	fieldUser       = "u"
	fieldVersion    = "n"
	fieldCreated    = "c"
	fieldIdle       = "i"
	fieldAbsolute   = "a"
	fieldExpires    = "e"
	fieldSize       = "s"
	tagValue        = "v"
)

// parseRecord makes a Record of a hash and the time that its key has left, or
// the zero Record, for State Missing, if commit.lua did not write it so. In its
// last millisecond a key has 0 left and is still there, for every command.
func parseRecord(fields map[string]string, left time.Duration, state session.State) session.Record {
	var bad bool
	number := func(field string) int64 {
		s := fields[field]
		n, err := strconv.ParseUint(s, 10, 63)
		bad = bad || err != nil || len(s) > 16
		return int64(n)
	}
	version, created, expires := number(fieldVersion), number(fieldCreated), number(fieldExpires)
	idle, absolute := number(fieldIdle), number(fieldAbsolute)
	_ = number(fieldSize)
	if bad || left < 0 {
		return session.Record{}
	}

	// The key ends at expires by the server's clock, left from now. So the time
	// there is known without asking for it.
	now := expires - left.Milliseconds()
	rec := session.Record{
		State:       state,
		Version:     uint64(version),
		User:        fields[fieldUser],
		Values:      make(map[string][]byte, len(fields)),
		CreatedAt:   time.UnixMilli(created),
		IdleTimeout: time.Duration(idle) * time.Millisecond,
		ExpiresIn:   left,
		EndsIn:      max(left, time.Duration(created+absolute-now)*time.Millisecond),
	}
	for field, value := range fields {
		if name, ok := strings.CutPrefix(field, tagValue); ok {
			rec.Values[name] = []byte(value)
		}
	}
	return rec
}
