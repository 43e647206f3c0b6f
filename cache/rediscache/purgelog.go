package rediscache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
)

// purgeLog is what this process knows of the log of purges in Redis.
type purgeLog struct {
	keys      []string // the head and the log
	channel   string   // of all processes
	retention time.Duration
	limit     int // records in the log
	page      int // records in one answer
	table     purges.Table

	mu    sync.Mutex
	read  uint64 // all records up to this epoch are in the table
	known uint64 // the largest epoch seen

	catching chan struct{} // has a value while somebody reads one page after the other
}

// defaultPage is how many records one answer of sync.lua has.
const defaultPage = 10_000

// newPurgeLog returns the log in a database. Redis has channels of one name for all
// databases, each of which has epochs of its own. Who took those of another one for his
// would find that his log lags behind, and give up everything.
func newPurgeLog(prefix string, database int, retention time.Duration) *purgeLog {
	head := prefix + "{purges}"
	channel := head + ":feed"
	if database != 0 {
		channel += ":" + strconv.Itoa(database)
	}
	return &purgeLog{
		keys: []string{head, head + ":log"}, channel: channel,
		retention: retention, limit: purges.DefaultLimit, page: defaultPage,
		catching: make(chan struct{}, 1),
	}
}

// news is what happened in one epoch.
type news struct {
	before, epoch, floor uint64
	records              []purges.Record
	keys                 []string // of entries that were purged or overwritten
}

// sync returns the step that reads what is not known yet.
func (l *purgeLog) sync() step {
	l.mu.Lock()
	defer l.mu.Unlock()
	return step{syncScript, l.keys, []any{l.read, l.known, l.retention.Milliseconds(), l.page}}
}

// append returns the step that begins an epoch with n, of which the epochs are
// not known yet.
func (l *purgeLog) append(n news) step {
	l.mu.Lock()
	defer l.mu.Unlock()
	args := []any{l.known, l.retention.Milliseconds(), l.limit, l.channel, n.body()}
	for _, r := range n.records {
		args = append(args, r.AppendBinary(nil))
	}
	return step{logScript, l.keys, args}
}

// add takes n into the table.
func (l *purgeLog) add(n news) {
	l.table.Add(n.epoch, n.records...)
	l.table.Raise(n.floor)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = max(l.known, n.epoch)
	if n.before <= l.read {
		l.read = max(l.read, n.epoch)
	}
}

// addPage takes the answer to sync into the table. It returns the epoch of the
// answer, and whether the table has all records up to it now.
func (l *purgeLog) addPage(answer any) (epoch uint64, whole bool, err error) {
	list, _ := answer.([]any)
	if len(list) < 2 || len(list)%2 != 0 {
		return 0, false, fmt.Errorf("the script answered %v", answer)
	}
	epoch, err = number(list[0])
	floor, err2 := number(list[1])
	if err = errors.Join(err, err2); err != nil {
		return 0, false, err
	}
	l.table.Raise(floor)
	upTo := epoch
	for i := 2; i < len(list); i += 2 {
		text, _ := list[i].(string)
		of, err := number(list[i+1])
		if err != nil {
			return 0, false, err
		}
		record, err := purges.Parse(text)
		if err != nil {
			// A newer version's, or damage: nobody knows what it reaches.
			l.table.Raise(of)
		} else {
			l.table.Add(of, record)
		}
		upTo = of
	}
	if whole = len(list)-2 < 2*l.page; whole {
		upTo = epoch
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = max(l.known, epoch)
	l.read = max(l.read, upTo)
	return epoch, whole, nil
}

// caughtUp takes the answer to sync into the table, and reads on if there is
// more. It returns the epoch of the answer.
func (s *Store) caughtUp(ctx context.Context, answer any) (uint64, error) {
	epoch, whole, err := s.log.addPage(answer)
	if whole || err != nil {
		return epoch, err
	}
	// One at a time, for all need the same.
	select {
	case s.log.catching <- struct{}{}:
		defer func() { <-s.log.catching }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for !whole {
		answers, err := s.together(ctx, s.log.sync())
		if err != nil {
			return 0, err
		}
		if _, whole, err = s.log.addPage(answers[0]); err != nil {
			return 0, err
		}
	}
	return epoch, nil
}

// number reads a number that a script has written.
func number(v any) (uint64, error) {
	text, _ := v.(string)
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(text, 64) // a score of a sorted set
		if err != nil || f < 0 || f >= 1<<53 {
			return 0, fmt.Errorf("the script answered %q, it should be a number", text)
		}
		n = uint64(f)
	}
	return n, nil
}

// answered returns n with the epochs that log.lua has answered.
func (n news) answered(answer any) (news, error) {
	list, _ := answer.([]any)
	if len(list) != 3 {
		return news{}, fmt.Errorf("the script answered %v", answer)
	}
	var errs [3]error
	n.before, errs[0] = number(list[0])
	n.epoch, errs[1] = number(list[1])
	n.floor, errs[2] = number(list[2])
	return n, errors.Join(errs[:]...)
}

// recordsOf returns the records that p needs.
func recordsOf(p cache.Purge) []purges.Record {
	var records []purges.Record
	for _, tag := range p.Tags {
		records = append(records, purges.Tag(purges.Hash(tag), p.Soft))
	}
	for _, prefix := range p.Prefixes {
		records = append(records, purges.Prefix(prefix, p.Soft))
	}
	if p.All {
		records = append(records, purges.All(p.Soft))
	}
	return records
}

// A message on the channel of all processes is the epoch before, the epoch and
// the floor, in 20 digits each, and then
//
//	4 bytes   how many records
//	14 each   the records
//	          each key, after its size in 4 bytes
const epochDigits = 20

// body returns the part of the message that the script does not know.
func (n news) body() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(n.records)))
	for _, r := range n.records {
		b = r.AppendBinary(b)
	}
	for _, key := range n.keys {
		b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
		b = append(b, key...)
	}
	return b
}

// parseNews reads a message.
func parseNews(message string) (news, error) {
	if len(message) < 3*epochDigits+4 {
		return news{}, errors.New("the message is too short")
	}
	var n news
	for i, to := range []*uint64{&n.before, &n.epoch, &n.floor} {
		var err error
		if *to, err = strconv.ParseUint(message[i*epochDigits:(i+1)*epochDigits], 10, 64); err != nil {
			return news{}, err
		}
	}
	rest := message[3*epochDigits:]
	count := uint64(binary.BigEndian.Uint32([]byte(rest[:4])))
	rest = rest[4:]
	if count*purges.RecordSize > uint64(len(rest)) {
		return news{}, errors.New("records are missing")
	}
	for range count {
		r, err := purges.Parse(rest[:purges.RecordSize])
		if err != nil {
			return news{}, err
		}
		n.records = append(n.records, r)
		rest = rest[purges.RecordSize:]
	}
	for len(rest) > 0 {
		if len(rest) < 4 {
			return news{}, errors.New("a key is missing")
		}
		size := uint64(binary.BigEndian.Uint32([]byte(rest[:4])))
		if rest = rest[4:]; size > uint64(len(rest)) {
			return news{}, errors.New("a key is cut off")
		}
		n.keys = append(n.keys, rest[:size])
		rest = rest[size:]
	}
	return n, nil
}
