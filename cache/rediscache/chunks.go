package rediscache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/redis/go-redis/v9"
)

// A chunk in Redis is
//
//	magic     4 bytes   "hlk2"
//	checksum  4 bytes   CRC-32C of all that follows
//	id        16 bytes  of the value
//	number    4 bytes   from zero
//	bytes     the rest
const (
	chunkMagic  = "hlk2"
	chunkHeader = 4 + 4 + 16 + 4

	// inFlight bounds the bytes of chunks in one pipeline.
	inFlight = 1 << 20
	// readAtOnce does for those that are read, if their length is known. On their way
	// they are copied five times, and what does not stay in the processors' caches
	// meanwhile takes half as long again.
	readAtOnce = inFlight / 2
	// chunkGrace is how long chunks outlive their entry: somebody may be
	// reading. The scripts have it, too.
	chunkGrace = time.Minute
)

// errIncomplete is the error of reading chunks that are missing or damaged.
var errIncomplete = fmt.Errorf("a part of the value is missing or damaged: %w", cache.ErrNoBody)

func isIncomplete(err error) bool { return errors.Is(err, errIncomplete) }

// chunkPrefix is what the keys of a value's chunks begin with. They lie in the
// slot of the entry.
func (s *Store) chunkPrefix(key string, i id) string {
	return fmt.Sprintf("%s:%x:", s.entryName(key), i)
}

func chunkName(prefix string, n uint32) string { return prefix + strconv.FormatUint(uint64(n), 10) }

// chunkWriter writes a value in chunks, some at a time, from buffers that it uses
// again and again.
type chunkWriter struct {
	ctx    context.Context //nolint:containedctx // it bounds the writing, as BodyStore says
	client Client
	prefix string
	id     id
	ttl    time.Duration
	size   int // of a chunk

	full    [][]byte // chunks that wait to be written
	part    []byte   // the chunk that is being filled
	unused  [][]byte // buffers
	written uint32   // chunks
	total   int64    // bytes that were handed in
	err     error
	ended   bool
}

var errBodyEnded = errors.New("the body has ended")

func (s *Store) newChunkWriter(ctx context.Context, key string, i id, ttl time.Duration) *chunkWriter {
	if ttl <= 0 {
		ttl = time.Millisecond
	}
	return &chunkWriter{
		ctx: ctx, client: s.client, prefix: s.chunkPrefix(key, i), id: i, size: s.chunkBytes,
		ttl: min(ttl, math.MaxInt64-chunkGrace) + chunkGrace,
	}
}

// CreateBody implements cache.BodyStore without a round trip. Writing takes one
// for each MiB.
func (s *Store) CreateBody(ctx context.Context, key string, ttl time.Duration) (cache.BodyWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault(ctx, "create body", err)
	}
	return &bodyWriter{s.newChunkWriter(ctx, key, newID(), ttl)}, nil
}

// bodyWriter is a chunkWriter whose errors say what they are about.
type bodyWriter struct{ *chunkWriter }

func (w *bodyWriter) Write(p []byte) (int, error) {
	n, err := w.chunkWriter.Write(p)
	if err != nil {
		err = fault(w.ctx, "write body", err)
	}
	return n, err
}

// Finish implements cache.BodyWriter.
func (w *bodyWriter) Finish() (cache.Body, error) {
	if w.ended {
		return cache.Body{}, fault(w.ctx, "finish body", errBodyEnded)
	}
	if err := w.flush(); err != nil {
		return cache.Body{}, fault(w.ctx, "finish body", err)
	}
	w.ended = true
	return bodyOf(w.id, w.written, uint64(w.total)), nil
}

// Write implements io.Writer.
func (w *chunkWriter) Write(p []byte) (int, error) {
	if w.ended && w.err == nil {
		return 0, errBodyEnded
	}
	for done := 0; ; {
		if w.err != nil || done == len(p) {
			return done, w.err
		}
		if w.part == nil {
			w.part = w.buffer()
		}
		n := min(w.size+chunkHeader-len(w.part), len(p)-done)
		w.part = append(w.part, p[done:done+n]...)
		done += n
		w.total += int64(n)
		if len(w.part) == w.size+chunkHeader {
			w.seal()
			if (len(w.full)+1)*w.size > inFlight {
				w.err = w.send()
			}
		}
	}
}

// buffer returns one with room for the header, and for more if the value turns
// out to be long.
func (w *chunkWriter) buffer() []byte {
	if n := len(w.unused); n > 0 {
		b := w.unused[n-1]
		w.unused = w.unused[:n-1]
		return b[:chunkHeader]
	}
	return make([]byte, chunkHeader, chunkHeader+min(w.size, 32<<10))
}

// seal ends the chunk that is being filled.
func (w *chunkWriter) seal() {
	b := w.part
	copy(b, chunkMagic)
	copy(b[8:], w.id[:])
	binary.BigEndian.PutUint32(b[24:], w.written+uint32(len(w.full)))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	w.full = append(w.full, b)
	w.part = nil
}

// send writes the chunks that wait.
func (w *chunkWriter) send() error {
	if len(w.full) == 0 {
		return w.ctx.Err()
	}
	_, err := w.client.Pipelined(w.ctx, func(p redis.Pipeliner) error {
		for i, b := range w.full {
			p.Set(w.ctx, chunkName(w.prefix, w.written+uint32(i)), b, w.ttl)
		}
		return nil
	})
	w.written += uint32(len(w.full))
	w.unused = append(w.unused, w.full...)
	w.full = w.full[:0]
	return err
}

// flush writes what is left.
func (w *chunkWriter) flush() error {
	if w.err == nil {
		if len(w.part) > chunkHeader {
			w.seal()
		}
		w.err = w.send()
	}
	return w.err
}

// Abort implements cache.BodyWriter. What cannot be removed now ends by itself.
func (w *chunkWriter) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), time.Second)
	defer cancel()
	for first := uint32(0); first < w.written; first += existsAtOnce {
		names := chunkNames(w.prefix, first, min(w.written-first, existsAtOnce))
		_, _ = w.client.Pipelined(ctx, func(p redis.Pipeliner) error { return p.Unlink(ctx, names...).Err() })
	}
}

// existsAtOnce bounds the keys of one command.
const existsAtOnce = 1000

func chunkNames(prefix string, first, count uint32) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = chunkName(prefix, first+uint32(i))
	}
	return names
}

// chunkReader reads a value in chunks, some at a time. It is to be released.
type chunkReader struct {
	ctx    context.Context //nolint:containedctx // it bounds the reading, as BodyStore says
	client Client
	pipe   *pipelining.Client
	turns  *turns
	prefix string
	id     id
	count  uint32
	size   int64 // of the value
	each   int64 // of all chunks but the last one; zero: not known

	next    uint32 // the chunk to ask for
	skip    int64  // of its bytes, those that nobody wants
	ahead   int    // how many to ask for at a time; zero: as many as fit
	buffers []*[]byte
	loaded  [][]byte // what is left of them
	pos     int64    // of what is read next
	err     error
}

// OpenBody implements cache.BodyStore with one round trip. Reading takes one for
// each 512 KiB. What it returns is an io.Seeker: after a Seek one chunk is read, then
// two, and so on.
func (s *Store) OpenBody(ctx context.Context, key string, b cache.Body) (io.ReadCloser, error) {
	i, count, err := parseBody(b)
	if err == nil && b.ID == "" {
		err = errors.New("there is none")
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fault(ctx, "open body", err)
	}
	r := s.newChunkReader(ctx, key, i, count, b.Size)
	if err := r.check(); err != nil {
		return nil, fault(ctx, "open body", err)
	}
	return &bodyReader{r}, nil
}

func (s *Store) newChunkReader(ctx context.Context, key string, i id, count uint32, size int64) *chunkReader {
	return &chunkReader{ctx: ctx, client: s.client, pipe: s.pipe, turns: s.reading, prefix: s.chunkPrefix(key, i), id: i, count: count, size: size}
}

// bodyReader is a chunkReader whose errors say what they are about.
type bodyReader struct{ *chunkReader }

func (r *bodyReader) Read(p []byte) (int, error) {
	n, err := r.chunkReader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fault(r.ctx, "read body", err)
	}
	return n, err
}

// WriteTo implements io.WriterTo. The bytes are not copied on their way.
func (r *bodyReader) WriteTo(w io.Writer) (int64, error) {
	n, failed, err := r.writeTo(w)
	if failed {
		err = fault(r.ctx, "read body", err)
	}
	return n, err
}

// Seek implements io.Seeker without a round trip.
func (r *bodyReader) Seek(offset int64, whence int) (int64, error) {
	at, err := r.seek(offset, whence)
	if err != nil {
		err = fault(r.ctx, "seek in body", err)
	}
	return at, err
}

// Close implements io.Closer.
func (r *bodyReader) Close() error {
	r.release()
	r.err = errors.New("the body is closed")
	return nil
}

// check asks whether all chunks are there, and how long they are: the process that
// has written them may have had another Options.ChunkBytes.
func (r *chunkReader) check() error {
	if r.count == 0 {
		if r.size > 0 {
			return errIncomplete
		}
		return nil
	}
	var cmds []*redis.IntCmd
	var first *redis.IntCmd
	err := r.pipe.Pipelined(r.ctx, func(p redis.Pipeliner) error {
		first = p.StrLen(r.ctx, chunkName(r.prefix, 0))
		for first := uint32(0); first < r.count; first += existsAtOnce {
			cmds = append(cmds, p.Exists(r.ctx, chunkNames(r.prefix, first, min(r.count-first, existsAtOnce))...))
		}
		return nil
	})
	if isWrongType(err) {
		return errIncomplete
	}
	if err != nil {
		return err
	}
	var there int64
	for _, c := range cmds {
		there += c.Val()
	}
	r.each = first.Val() - chunkHeader
	last := r.size - r.each*int64(r.count-1)
	if there != int64(r.count) || last <= 0 || last > r.each {
		return errIncomplete
	}
	return nil
}

// seek goes to another place of the value. Nothing is asked for.
func (r *chunkReader) seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	default:
		return r.pos, fmt.Errorf("the whence %d means nothing", whence)
	}
	switch {
	case offset < 0:
		return r.pos, errors.New("the place lies before the beginning")
	case errors.Is(r.err, io.EOF):
		r.err = nil
	case r.err != nil:
		return r.pos, r.err
	}
	further := offset - r.pos
	r.pos = offset
	if further >= 0 && r.pass(further) {
		return offset, nil
	}
	r.loaded = r.loaded[:0]
	r.ahead = 1 // who reads parts wants no more than them
	if offset >= r.size {
		r.next, r.skip = r.count, 0
	} else {
		r.next, r.skip = uint32(offset/r.each), offset%r.each
	}
	return offset, nil
}

// pass gives up the next n bytes, if they and at least one more are loaded.
func (r *chunkReader) pass(n int64) bool {
	for i, b := range r.loaded {
		if n < int64(len(b)) {
			r.loaded = r.loaded[i:]
			r.loaded[0] = b[n:]
			return true
		}
		n -= int64(len(b))
	}
	return false
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for r.err == nil && len(r.loaded) == 0 {
		r.err = r.load()
	}
	if r.err != nil {
		return 0, r.err
	}
	n := copy(p, r.loaded[0])
	if r.loaded[0] = r.loaded[0][n:]; len(r.loaded[0]) == 0 {
		r.loaded = r.loaded[1:]
	}
	r.pos += int64(n)
	return n, nil
}

// writeTo writes what is left. failed: it was not w that did.
func (r *chunkReader) writeTo(w io.Writer) (written int64, failed bool, err error) {
	for {
		for r.err == nil && len(r.loaded) == 0 {
			r.err = r.load()
		}
		switch {
		case errors.Is(r.err, io.EOF):
			return written, false, nil
		case r.err != nil:
			return written, true, r.err
		}
		b := r.loaded[0]
		n, err := w.Write(b)
		if r.loaded[0] = b[n:]; n == len(b) {
			r.loaded = r.loaded[1:]
		}
		r.pos += int64(n)
		written += int64(n)
		switch {
		case err != nil:
			return written, false, err
		case n < len(b):
			return written, false, io.ErrShortWrite
		}
	}
}

// load asks for the next chunks. It fails with io.EOF at the end.
func (r *chunkReader) load() error {
	if r.next == r.count {
		if r.pos < r.size {
			return errIncomplete
		}
		return io.EOF
	}
	n, err := r.fetch()
	if err != nil && !isIncomplete(err) && r.ctx.Err() == nil {
		n, err = r.fetch() // the client does not repeat what reads into a buffer
	}
	if err != nil {
		return err
	}
	r.next += n
	r.loaded[0] = r.loaded[0][r.skip:]
	r.skip = 0
	return nil
}

// fetch gets the next chunks into buffers, and returns how many. What was loaded is
// gone.
func (r *chunkReader) fetch() (uint32, error) {
	end, ok := r.turns.try()
	if !ok {
		r.release() // who waits needs no buffers, and others have use for them
		end = r.turns.take(r.ctx)
	}
	defer end()
	r.loaded = r.loaded[:0]
	cmds := make([]*redis.ZeroCopyStringCmd, r.makeBuffers())
	_, _ = r.client.Pipelined(r.ctx, func(p redis.Pipeliner) error {
		for i := range cmds {
			cmds[i] = p.GetToBuffer(r.ctx, chunkName(r.prefix, r.next+uint32(i)), *r.buffers[i])
		}
		return nil
	})
	for i, c := range cmds {
		switch err := c.Err(); {
		case isNil(err), isWrongType(err), isTooLong(err):
			return 0, errIncomplete
		case err != nil:
			return 0, err
		}
		b := c.Bytes()
		if !r.isChunk(b, r.next+uint32(i)) {
			return 0, errIncomplete
		}
		r.loaded = append(r.loaded, b[chunkHeader:])
	}
	return uint32(len(cmds)), nil
}

// makeBuffers sees to it that there are those for the chunks that are asked for next,
// and returns how many that are. If nobody has asked how long the chunks are, only the
// bounds are known.
func (r *chunkReader) makeBuffers() int {
	longest, most := r.each, int64(readAtOnce)
	if longest == 0 { // they may be half as long as the bound
		longest, most = min(r.size/max(int64(r.count)-1, 1), maxChunkBytes), inFlight
	}
	n := int(min(max(most/max(longest, 1), 1), existsAtOnce, int64(r.count-r.next)))
	if r.ahead > 0 {
		n = min(n, r.ahead)
		r.ahead = min(2*r.ahead, existsAtOnce)
	}
	for len(r.buffers) < n {
		r.buffers = append(r.buffers, chunkBuffer(longest))
	}
	return n
}

// release gives the buffers back. Nothing that was read into them may be looked at
// any more.
func (r *chunkReader) release() {
	for _, b := range r.buffers {
		chunkBuffers[bits.Len(uint(len(*b)-chunkExtra-1))].Put(b)
	}
	clear(r.buffers)
	r.loaded, r.buffers = nil, r.buffers[:0]
}

// chunkBuffers are those that nobody reads into at present, for chunks of 1, 2, 4, ...
// bytes: to make one anew, and to collect it, costs more than to read from Redis.
var chunkBuffers [bits.UintSize]sync.Pool

// chunkExtra is what comes with a chunk's bytes: its header, and the end of the line.
const chunkExtra = chunkHeader + 2

// chunkBuffer returns one for a chunk of that many bytes, or up to twice as many.
func chunkBuffer(size int64) *[]byte {
	class := bits.Len(uint(max(size, 1) - 1))
	if b, ok := chunkBuffers[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 1<<class+chunkExtra)
	return &b
}

// isTooLong reports that a value does not fit into the buffer for it.
func isTooLong(err error) bool {
	return err != nil && strings.Contains(err.Error(), "buffer too small")
}

// isChunk reports that b is the chunk of that number.
func (r *chunkReader) isChunk(b []byte, number uint32) bool {
	length := int64(len(b) - chunkHeader)
	if r.each > 0 && length != min(r.each, r.size-r.each*int64(number)) {
		return false // where it is sought would be wrong
	}
	return length > 0 && string(b[:4]) == chunkMagic &&
		binary.BigEndian.Uint32(b[4:]) == crc32.Checksum(b[8:], castagnoli) &&
		id(b[8:24]) == r.id && binary.BigEndian.Uint32(b[24:]) == number
}

// loadChunks returns a value that was written in chunks.
func (s *Store) loadChunks(ctx context.Context, key string, i id, count uint32, size int64) ([]byte, error) {
	r := s.newChunkReader(ctx, key, i, count, size)
	defer r.release()
	// It grows with what is really there.
	data := make([]byte, 0, min(size, 4*inFlight))
	for {
		r.err = r.load()
		if errors.Is(r.err, io.EOF) {
			return data, nil
		}
		if r.err != nil {
			return nil, r.err
		}
		for _, b := range r.loaded {
			if int64(len(data)+len(b)) > size {
				return nil, errIncomplete
			}
			data = append(slices.Grow(data, len(b)), b...)
			r.pos += int64(len(b))
		}
		r.loaded = r.loaded[:0]
	}
}
