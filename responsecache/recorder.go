package responsecache

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/respwriter"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// recorder is the ResponseWriter of a handler whose response may be stored: it
// passes everything on to the client at once, and keeps a copy. What the client is
// not to see, a 304 for the cache or a failure in whose place it gets a stale
// response, is kept back.
//
// It is not safe for concurrent use, as no ResponseWriter is.
type recorder struct {
	w http.ResponseWriter
	x *exchange
	f *filling

	outer   http.Header // set before the handler was reached
	asked   time.Time   // when the handler was
	status  int         // 0: no final header yet
	outcome outcome

	header  http.Header // as the handler left it
	before  http.Header // the same, before middleware outside adds what it adds last
	own     http.Header // what of it the handler has set
	came    time.Time   // when the header went out
	length  string      // the Content-Length that the handler declared
	verdict verdict
	out     io.Writer // where the body goes: the client, a coding, or nowhere
	has304  bool      // the client has got a 304 in place of it
	coding  *encoder  // or nil

	keep    bool             // the response is being recorded
	live    *live            // what is recorded, or nil
	shared  bool             // others may read along
	body    cache.BodyWriter // for long ones, else nil
	written int64            // bytes of the body
	gone    error            // the client's connection has failed
	waits   patience         // of those who read along, with the client
	stop    func() bool      // ends what watches the client, or nil
	sniffed string           // the Content-Type that net/http has found out
}

// outcome is what became of a response of the handler.
type outcome uint8

const (
	passed      outcome = iota // to the client
	notModified                // it is an answer to the cache's condition
	failure                    // it is an error that a stale response hides
	givenUp                    // it has broken, after a client that has the page got a 304
)

// errBroken is the end of a body for those who read along, if it has not come to a
// good one.
var errBroken = errors.New("responsecache: the response was not finished")

// errNobody is what a handler gets in the background for writing what is not to be
// stored.
var errNobody = errors.New("responsecache: nobody gets this response")

func newRecorder(x *exchange, f *filling) *recorder {
	rec := &recorder{w: x.w, x: x, f: f, outer: x.w.Header().Clone(), asked: time.Now(), out: x.w}
	rec.waits.rec = rec
	return rec
}

// Header implements http.ResponseWriter.
func (rec *recorder) Header() http.Header { return rec.w.Header() }

// WriteHeader implements http.ResponseWriter. Informational responses pass.
func (rec *recorder) WriteHeader(code int) {
	if code < 200 && code != http.StatusSwitchingProtocols {
		rec.w.WriteHeader(code)
		return
	}
	if rec.status != 0 {
		if rec.outcome == passed {
			rec.keep = rec.keep && code == rec.status // it wants to take back what it has begun
			rec.w.WriteHeader(code)                   // net/http logs the superfluous call
		}
		return
	}
	rec.status, rec.came = code, time.Now()
	h := rec.w.Header()
	rec.header = canonical(h)
	switch {
	case code == http.StatusNotModified && rec.f.validating:
		rec.keepBack(notModified)
	case rec.f.hides() && rec.x.route.policy.isError(code, rec.header):
		rec.keepBack(failure)
	default:
		rec.pass(h)
	}
}

// keepBack hides the response from the client.
func (rec *recorder) keepBack(o outcome) {
	rec.outcome, rec.out = o, io.Discard
	rec.own = difference(rec.header, rec.outer)
	rec.restore()
}

// restore makes the header of the response what it was before the handler.
func (rec *recorder) restore() {
	h := rec.w.Header()
	clear(h)
	for name, values := range rec.outer {
		h[name] = slices.Clone(values)
	}
}

// pass sends the header on, and decides what becomes of the response.
func (rec *recorder) pass(h http.Header) {
	x := rec.x
	addVary(h, x.route.policy.Vary)
	setDate(h, rec.came)
	rec.header = canonical(h)
	rec.own = difference(rec.header, rec.outer)
	rec.length = rec.header.Get("Content-Length")
	rec.verdict = x.judge(&response{status: rec.status, header: rec.header, own: rec.own, took: rec.came.Sub(rec.asked), came: rec.came})
	v := &rec.verdict
	if v.store && rec.isTooLong() {
		*v = v.not("too-long")
	}
	st := status{fwd: rec.f.reason, detail: v.why}
	if rec.f.validating {
		st.fwdStatus = rec.status
	}
	if v.store && rec.f.place(rec) {
		st.stored, st.ttl, st.hasTTL = true, v.ttl, true
	} else if v.store {
		*v = v.not("not-kept")
		st.detail = v.why
	}
	rec.before = canonical(h)
	x.cache.takeOff(h)
	code := rec.negotiate(h)
	x.addStatus(st)
	rec.w.WriteHeader(code)
	rec.has304 = code == http.StatusNotModified && rec.status == http.StatusOK && !x.background
	// Only now have middleware outside of the cache added what they add at
	// the last moment, a session's cookie for one.
	if v.store && isPersonal(rec.before, canonical(h)) {
		*v = v.not("personal")
	}
	rec.keep = v.store
	if !rec.keep {
		rec.f.unshareable(rec.status, rec.header, v.why)
		if x.background {
			rec.gone = errNobody
		}
		return
	}
	rec.begin()
}

// isTooLong reports a body that is declared to be longer than what is stored.
func (rec *recorder) isTooLong() bool {
	n, err := strconv.ParseInt(rec.length, 10, 64)
	return err == nil && n > rec.x.route.maxBody
}

// negotiate gives the client what it has asked for of a whole response: a 304 if it
// has the same already, or a coding. It returns the status to send.
func (rec *recorder) negotiate(h http.Header) int {
	x := rec.x
	length := int64(-1)
	if n, err := strconv.ParseInt(rec.length, 10, 64); err == nil {
		length = n
	}
	coding := x.coding(h, rec.status, length)
	if rec.status == http.StatusOK && rec.verdict.store && fields.NotModified(x.r.Header, h, rec.came) {
		rec.out = io.Discard
		stripFor304(h)
		return http.StatusNotModified
	}
	if coding != "" {
		rec.coding = newEncoder(coding, rec.w)
		rec.out = rec.coding
	}
	return rec.status
}

// begin begins to record.
func (rec *recorder) begin() {
	s := rec.verdict.response
	s.key = rec.f.key
	s.length = -1
	if n, err := strconv.ParseInt(rec.length, 10, 64); err == nil {
		s.length = n
	}
	rec.live = newLive(&s)
	rec.f.live = rec.live
	rec.live.asked, rec.live.came, rec.live.ttl = rec.asked, rec.came, rec.verdict.ttl
	rec.live.page, rec.live.rule = rec.f.page, rec.f.rule
	rec.live.vary, rec.live.selected = rec.verdict.vary, rec.x.selects(varyIndex{names: rec.verdict.vary})
	rec.stop = rec.f.endWithoutReaders(rec.live)
}

// canonical returns a copy of h in which each field has one name: net/http sends
// h["set-cookie"] as well as h["Set-Cookie"].
func canonical(h http.Header) http.Header {
	c := make(http.Header, len(h))
	for name, values := range h {
		name = http.CanonicalHeaderKey(name)
		c[name] = slices.Clip(append(c[name], values...)) // requests share it, and some add to it
	}
	return c
}

// setDate says when a response came, unless the handler has said when it was made
// (RFC 9110 §6.6.1). It goes out with that Date: net/http's own could be of the next
// second, and the client is to see that of the stored response.
func setDate(h http.Header, came time.Time) {
	for name, values := range h {
		if http.CanonicalHeaderKey(name) == "Date" && len(values) > 0 {
			return
		}
	}
	h.Set("Date", came.UTC().Format(http.TimeFormat))
}

// addVary adds those names to the response's Vary that it does not have yet.
func addVary(h http.Header, names []string) {
	if len(names) == 0 {
		return
	}
	there := fields.Members(h["Vary"])
	for _, name := range names {
		if !slices.Contains(there, strings.ToLower(name)) {
			h.Add("Vary", http.CanonicalHeaderKey(name))
		}
	}
}

// Write implements http.ResponseWriter. If the client is gone, a response that
// may be stored is recorded to its end all the same: others wait for it.
func (rec *recorder) Write(p []byte) (int, error) {
	rec.sniff(p)
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	for n := 0; ; {
		m, err := rec.writePiece(rec.nextPiece(p[n:]))
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// nextPiece returns how much of p is recorded and sent in a step. The first one goes to
// the client before anybody else: with it middleware adds what it adds last, or refuses
// the response. So it is no longer than what cannot get stuck.
func (rec *recorder) nextPiece(p []byte) []byte {
	switch {
	case rec.live == nil:
		return p
	case rec.written == 0:
		return p[:min(len(p), buffered)]
	}
	return p[:min(len(p), liveChunk-buffered)]
}

// writePiece records a piece and sends it. In this order, because a client that does not
// read would keep it from those who read along.
func (rec *recorder) writePiece(p []byte) (n int, err error) {
	if l := rec.live; l != nil && rec.written > 0 && (l.response.length < 0 || rec.written+int64(len(p)) <= l.response.length) {
		rec.record(p)
		n, err = rec.send(p)
		rec.lookAgain(rec.w.Header())
	} else {
		n, err = rec.send(p)
		rec.lookAgain(rec.w.Header())
		rec.record(p[:n])
	}
	if rec.live != nil && rec.keep && rec.live.flushedOr(liveChunk) {
		rec.share()
	}
	return n, err
}

// lookAgain stops storing a response that is for one user only, for all that middleware
// outside of the cache has added by now: some writers, such as gin's, keep the header back
// until there is a body, and what is added at the last moment comes then.
func (rec *recorder) lookAgain(h http.Header) {
	if rec.keep && isPersonal(rec.before, h) {
		rec.lose("personal")
	}
}

// send writes to the client.
func (rec *recorder) send(p []byte) (int, error) {
	if rec.gone == nil {
		rec.beginSending()
		n, err := rec.out.Write(p)
		if rec.endSending(n) && err == nil {
			err = errSlow
		}
		if err == nil {
			return n, nil
		}
		if isHandlersFault(err) {
			rec.keep = false
			return n, err
		}
		rec.gone = err
	}
	if !rec.isNeeded() {
		return 0, rec.gone
	}
	return len(p), nil
}

// isNeeded reports whether anybody but the client waits for the body.
func (rec *recorder) isNeeded() bool { return rec.keep || rec.live != nil && rec.live.isRead() }

// sniff sets the Content-Type that net/http would set, because it does so too
// late for the record. If the header has gone out already the record alone gets it:
// of a part of the body net/http would find out another one.
func (rec *recorder) sniff(p []byte) {
	if len(p) == 0 || rec.written > 0 {
		return
	}
	if rec.status == 0 {
		setType(rec.w.Header(), p)
	} else if rec.keep {
		rec.sniffed = typeOf(rec.header, p)
	}
}

// setType sets the Content-Type that net/http would set for a body that begins with p.
func setType(h http.Header, p []byte) {
	if typ := typeOf(h, p); typ != "" {
		h.Set("Content-Type", typ)
	}
}

// typeOf returns that, or "" if the header has one, or net/http would set none.
func typeOf(h http.Header, p []byte) string {
	if _, set := h["Content-Type"]; set || len(p) == 0 || h.Get("Content-Encoding") != "" || h.Get("Transfer-Encoding") != "" {
		return ""
	}
	return http.DetectContentType(p)
}

// isHandlersFault reports an error of Write that says something about the
// response and nothing about the connection.
func isHandlersFault(err error) bool {
	return errors.Is(err, http.ErrContentLength) || errors.Is(err, http.ErrBodyNotAllowed) || errors.Is(err, respwriter.ErrReplaced)
}

// inlineBody is the length up to which a body is a part of the entry.
const inlineBody = 256 << 10

// recordedAtOnce is how much of one Write is recorded in a step. It is less than
// live holds, so that nothing is let go of before it is in the store.
const recordedAtOnce = 1 << 20

func (rec *recorder) record(p []byte) {
	for rec.live != nil && len(p) > 0 {
		piece := p[:min(len(p), recordedAtOnce)]
		p = p[len(piece):]
		rec.written += int64(len(piece))
		rec.live.write(piece)
		if rec.keep {
			rec.store(piece)
		}
		if !rec.isNeeded() {
			rec.live = nil
		}
	}
	rec.written += int64(len(p))
}

// store keeps p, in the store if the body is a long one.
func (rec *recorder) store(p []byte) {
	if rec.written > rec.x.route.maxBody {
		rec.lose("too-long")
		return
	}
	var err error
	switch {
	case rec.body != nil:
		_, err = rec.body.Write(p)
	case rec.written > inlineBody && rec.f.loading.Kept():
		rec.body, err = rec.x.engine.CreateBody(rec.f.ctx, rec.f.key, rec.verdict.ttl+rec.verdict.keep+longestResponse)
		if errors.Is(err, errors.ErrUnsupported) {
			err = nil // the store has no bodies: it stays a part of the entry
		}
		if rec.body != nil {
			for _, chunk := range rec.live.pending() {
				if _, err = rec.body.Write(chunk); err != nil {
					break
				}
			}
		}
	}
	switch {
	case err != nil:
		rec.lose("store")
	case rec.body == nil && rec.written > liveWindow:
		rec.lose("too-long") // of what is in memory the beginning goes next
	}
}

// longestResponse is for how long a body is kept while it is being made.
const longestResponse = 10 * time.Minute

// lose stops storing. Those who read along go on.
func (rec *recorder) lose(why string) {
	rec.keep = false
	rec.live.seal()
	if rec.body != nil {
		rec.body.Abort()
		rec.body = nil
	}
	rec.f.unshareable(rec.status, rec.header, why)
	if rec.x.background && rec.gone == nil {
		rec.gone = errNobody
	}
}

// share lets others of this process read along.
func (rec *recorder) share() {
	if rec.shared {
		return
	}
	rec.shared = true
	memo := new(cache.Memo)
	memo.Store(rec.live)
	rec.f.loading.Share(cache.Entry{Kind: cache.Value, TTL: time.Second, Memo: memo, Tags: rec.x.tagsOf(rec.header)})
}

// WriteString implements io.StringWriter.
func (rec *recorder) WriteString(s string) (int, error) { return rec.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom, by the wrapped writer's own if nothing is
// to be recorded.
func (rec *recorder) ReadFrom(r io.Reader) (int64, error) {
	if rec.status != 0 && rec.outcome == passed && rec.live == nil && rec.coding == nil && rec.out != io.Discard {
		n, err := io.Copy(rec.w, r)
		rec.written += n
		return n, err
	}
	return io.Copy(onlyWriter{rec}, r)
}

// onlyWriter hides ReadFrom from io.Copy.
type onlyWriter struct{ io.Writer }

// Flush implements http.Flusher.
func (rec *recorder) Flush() { _ = rec.FlushError() }

// FlushError is Flush for http.ResponseController. That the client is gone is no
// error as long as the response is recorded: a handler would stop half way.
func (rec *recorder) FlushError() error {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if rec.outcome != passed {
		return nil
	}
	if rec.live != nil {
		rec.live.flush()
	}
	var err error
	if rec.gone == nil {
		rec.beginSending()
		if rec.coding != nil {
			rec.gone = rec.coding.Flush()
		}
		if err = http.NewResponseController(rec.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			rec.gone = err
		}
		if rec.endSending(0) {
			rec.gone = errSlow
		}
	}
	rec.lookAgain(rec.w.Header())
	if rec.live != nil && rec.keep {
		rec.share()
	}
	switch {
	case rec.gone == nil:
		return err
	case !rec.isNeeded():
		return rec.gone
	}
	return nil
}

// Hijack implements http.Hijacker. The response is not stored.
func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(rec.w).Hijack()
	if err == nil {
		rec.status, rec.keep = http.StatusSwitchingProtocols, false
		if rec.live != nil { // what comes now, those who read along cannot have
			rec.live.finish(errBroken, nil)
		}
		rec.f.unshareable(rec.status, rec.header, "hijacked")
	}
	return conn, rw, err
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.w }

// isShort reports a handler that wrote less than it had declared.
func (rec *recorder) isShort() bool {
	return rec.length != "" && rec.length != strconv.FormatInt(rec.written, 10)
}

// hasTrailer reports a trailer in h that was not announced.
func hasTrailer(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// end ends the body after the handler has returned, or for err, and reports whether
// it is whole and may be stored.
func (rec *recorder) end(err error) bool {
	if rec.stop != nil {
		rec.stop()
	}
	// A handler whose context has ended has most likely stopped half way.
	if err == nil && (rec.isShort() || rec.f.ctx.Err() != nil) {
		err = errBroken
	}
	if rec.coding != nil {
		if err == nil && rec.gone == nil {
			rec.beginSending()
			rec.gone = rec.coding.Close()
			rec.endSending(0)
		} else {
			rec.coding.abandon()
		}
	}
	rec.waits.stop()
	if err == nil && hasTrailer(rec.w.Header()) {
		err = errBroken // for all but this client
	}
	rec.lookAgain(canonical(rec.w.Header()))
	stays := err == nil && rec.keep
	if rec.body != nil && !stays {
		rec.body.Abort()
		rec.body = nil
	}
	if rec.live != nil && !stays {
		rec.live.finish(err, nil)
	}
	return stays
}
