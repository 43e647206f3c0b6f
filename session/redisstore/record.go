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
	fieldDigest        = "d"
	fieldDigestAt      = "r"
	fieldSuperseded    = "p"
	fieldGraceEnds     = "g"
	fieldEarlier       = "q"
	fieldHandover      = "h"
	fieldOwner         = "o"
	fieldMeta          = "m"
	fieldAuthenticated = "t"
	fieldVersion       = "n"
	fieldCreated       = "c"
	fieldIdle          = "i"
	fieldAbsolute      = "a"
	fieldExpires       = "e"
	fieldTaken         = "x"
	fieldSize          = "s"
	tagValue           = "v"
)

// parseRecord makes a Record of a hash, the time that its key has left, and the
// server's time in milliseconds, or the zero Record, for State Missing, if
// commit.lua did not write it so or it is withdrawn. In its last millisecond a key
// has 0 left and is still there, for every command.
func parseRecord(fields map[string]string, left time.Duration, now int64, state session.State) session.Record {
	var bad bool
	number := func(field string) int64 {
		s := fields[field]
		n, err := strconv.ParseUint(s, 10, 63)
		bad = bad || err != nil || len(s) > 16
		return int64(n) //nolint:gosec // it has 63 bits
	}
	optional := func(field string) int64 {
		if fields[field] == "" {
			return 0
		}
		return number(field)
	}
	version, created, digestAt := number(fieldVersion), number(fieldCreated), number(fieldDigestAt)
	idle, absolute := number(fieldIdle), number(fieldAbsolute)
	_, _ = number(fieldSize), number(fieldExpires)
	authenticated, taken, graceEnds := optional(fieldAuthenticated), optional(fieldTaken), optional(fieldGraceEnds)
	if bad || left < 0 || now < taken {
		return session.Record{}
	}

	rec := session.Record{
		State:       state,
		Version:     uint64(version), //nolint:gosec // a count
		Owner:       fields[fieldOwner],
		Values:      make(map[string][]byte, len(fields)),
		CreatedAt:   time.UnixMilli(created),
		ReadAt:      time.UnixMilli(now),
		DigestAge:   time.Duration(now-digestAt) * time.Millisecond,
		GraceLeft:   max(0, time.Duration(graceEnds-now)*time.Millisecond),
		IdleTimeout: time.Duration(idle) * time.Millisecond,
		ExpiresIn:   left,
		EndsIn:      max(left, time.Duration(created+absolute-now)*time.Millisecond),
	}
	if authenticated > 0 {
		rec.AuthenticatedAt = time.UnixMilli(authenticated)
	}
	if text, ok := fields[fieldMeta]; ok {
		rec.Meta = []byte(text)
	}
	if state == session.Superseded {
		rec.Handover = []byte(fields[fieldHandover])
	}
	for field, value := range fields {
		if name, ok := strings.CutPrefix(field, tagValue); ok {
			rec.Values[name] = []byte(value)
		}
	}
	return rec
}
