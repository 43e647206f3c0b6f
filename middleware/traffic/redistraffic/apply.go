package redistraffic

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed slice.lua
	sliceSource string
	sliceScript = redis.NewScript(sliceSource)

	//go:embed board.lua
	boardSource string
	boardScript = redis.NewScript(boardSource)

	//go:embed salt.lua
	saltSource string
	saltScript = redis.NewScript(saltSource)

	//go:embed around.lua
	aroundSource string
	aroundScript = redis.NewScript(aroundSource)
)

const (
	// keepNode is for how long a node may go on trying to send a batch.
	keepNode = 48 * time.Hour
	// rowsAtOnce and updatesAtOnce bound a script, and how long it holds up the
	// server: some milliseconds.
	rowsAtOnce    = 64
	updatesAtOnce = 500
)

// call is a script of a batch.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
	// board is which of the batch's boards it changes, or -1, and from which of
	// its updates on.
	board, from int
	reply       *redis.Cmd
}

// Apply implements traffic.Store.
func (s *Store) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return traffic.Receipt{}, fault(ctx, "apply", err)
	}
	calls := s.calls(b)
	receipt := traffic.Receipt{Boards: make([]traffic.BoardReceipt, len(b.Boards))}
	for i, u := range b.Boards {
		receipt.Boards[i].Admissions = make([]uint16, len(u.Updates))
	}
	if len(calls) == 0 {
		_, now, err := s.Salt(ctx, 0) // that of a day long ago: nothing but the time
		receipt.Now = now
		return receipt, err
	}
	pipe := s.client.Pipeline()
	for i := range calls {
		c := &calls[i]
		c.reply = c.script.EvalSha(ctx, pipe, c.keys, c.args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var faults []error
	for i := range calls {
		c := &calls[i]
		if redis.HasErrorPrefix(c.reply.Err(), "NOSCRIPT") {
			c.reply = c.script.Run(ctx, s.client, c.keys, c.args...)
		}
		if err := c.read(&receipt); err != nil {
			faults = append(faults, err)
		}
	}
	if err := errors.Join(faults...); err != nil {
		// All of them most often say the same.
		return traffic.Receipt{}, fault(ctx, fmt.Sprintf("apply: %d of %d parts failed, the first", len(faults), len(calls)), faults[0])
	}
	return receipt, nil
}

// read takes what a script has answered into the receipt.
func (c *call) read(receipt *traffic.Receipt) error {
	reply, err := c.reply.Slice()
	if err != nil {
		return err
	}
	now, err := serverTime(reply)
	if err != nil {
		return err
	}
	receipt.Now = now
	if c.board < 0 {
		return nil
	}
	board := &receipt.Boards[c.board]
	admissions := board.Admissions[c.from:]
	if len(reply) < 3 || len(reply)-3 > len(admissions) {
		return fmt.Errorf("unexpected reply of %d elements", len(reply))
	}
	trims, _ := reply[2].(int64)
	board.Trims = uint64(trims)
	for i, v := range reply[3:] {
		n, _ := v.(int64)
		admissions[i] = uint16(n)
	}
	return nil
}

// calls returns the scripts of a batch. They are the same, in the same order, each
// time that it is sent: their places are the names of the parts.
func (s *Store) calls(b *traffic.Batch) []call {
	var calls []call
	node, seq := s.prefix+"node:"+b.Node, strconv.FormatUint(b.Seq, 10)
	head := func(args ...any) []any {
		return append([]any{len(calls), seq, millis(keepNode)}, args...)
	}
	for _, sl := range b.Slices {
		minute := traffic.Bucket{Unit: traffic.UnitMinute, N: sl.Minute}
		hour, day := minute.In(traffic.UnitHour), minute.In(traffic.UnitDay)
		keys := []string{
			node, s.rowsKey(minute),
			s.key("counters", minute), s.key("counters", hour), s.key("counters", day),
			s.key("visitors", minute), s.key("visitors", hour), s.key("visitors", day),
			s.prefix + "sketch",
		}
		sketch := encodeSketch(sl.Visitors)
		for from := 0; from < max(len(sl.Rows), 1); from += rowsAtOnce {
			args := head(millis(traffic.UnitMinute.Keep()), millis(traffic.UnitHour.Keep()), millis(traffic.UnitDay.Keep()),
				traffic.MaxRoutes, traffic.MaxNodes, rowBits, sketch)
			sketch = nil
			for i := from; i < min(len(sl.Rows), from+rowsAtOnce); i++ {
				args = appendRow(args, &sl.Rows[i])
			}
			calls = append(calls, call{script: sliceScript, keys: keys, args: args, board: -1})
		}
	}
	for i, u := range b.Boards {
		for from := 0; from < len(u.Updates); from += updatesAtOnce {
			args := head(millis(u.Bucket.Unit.KeepBoard()), u.Capacity)
			for _, up := range u.Updates[from:min(len(u.Updates), from+updatesAtOnce)] {
				args = append(args, up.Member, up.Delta, up.Total, up.Admission, up.Candidate)
			}
			calls = append(calls, call{script: boardScript, keys: []string{node, s.boardKey(u.Board, u.Bucket), s.key("trims", u.Bucket) + ":" + u.Board}, args: args, board: i, from: from})
		}
	}
	return calls
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
