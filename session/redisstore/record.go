package redisstore

import (
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
func parseRecord(fields hash, left time.Duration, now int64, state session.State) session.Record {
	var bad bool
	required := func(field string) int64 {
		n, ok := number(fields.get(field))
		bad = bad || !ok
		return n
	}
	optional := func(field string) int64 {
		if len(fields.get(field)) == 0 {
			return 0
		}
		return required(field)
	}
	version, created, digestAt := required(fieldVersion), required(fieldCreated), required(fieldDigestAt)
	idle, absolute := required(fieldIdle), required(fieldAbsolute)
	_, _ = required(fieldSize), required(fieldExpires)
	authenticated, taken, graceEnds := optional(fieldAuthenticated), optional(fieldTaken), optional(fieldGraceEnds)
	if bad || left < 0 || now < taken {
		return session.Record{}
	}

	values := 0
	for i := range fields {
		if strings.HasPrefix(fields[i].name, tagValue) {
			values++
		}
	}
	rec := session.Record{
		State:       state,
		Version:     uint64(version), //nolint:gosec // a count
		Owner:       string(fields.get(fieldOwner)),
		Values:      make(map[string][]byte, values),
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
	rec.Meta = fields.get(fieldMeta)
	if state == session.Superseded {
		rec.Handover = fields.get(fieldHandover)
	}
	for _, f := range fields {
		if name, ok := strings.CutPrefix(f.name, tagValue); ok {
			rec.Values[name] = f.value
		}
	}
	return rec
}

// number reads a number that commit.lua has written.
func number(digits []byte) (int64, bool) {
	if len(digits) == 0 || len(digits) > 16 {
		return 0, false
	}
	n := int64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}
