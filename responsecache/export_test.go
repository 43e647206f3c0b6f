package responsecache

import "net/http"

// What the fuzz tests look at.
type (
	Stored = stored
	Found  = found
)

func NewStored(status int, public bool, h http.Header, body []byte) *Stored {
	return &stored{status: status, public: public, header: h, body: body}
}

func (s *Stored) Parts() (int, bool, http.Header, []byte) {
	return s.status, s.public, s.headers(), s.body
}
func (s *Stored) Encode() []byte                  { return s.encode() }
func (f *Found) Response() *Stored                { return f.response }
func (f *Found) Index() (names []string, ok bool) { return f.index.names, f.isIndex() }
func (f *Found) Alias() (string, bool)            { return f.alias.rule, f.isAlias() }

var JoinParts = joinParts

// Decode decodes what nothing is known of.
func Decode(b []byte) (*Found, bool) { return decode(b, nil, nil) }

// KnownPage is what is remembered of a page.
type KnownPage struct{ page knownPage }

func (k *KnownPage) Decode(b []byte) (*Found, bool) { return decode(b, &k.page, nil) }

// KeyOf returns the key of the page that r asks for.
func KeyOf(r *http.Request) string {
	name := nameOf(r, nil)
	return name.key()
}

// Live is what others read along while it is made.
type Live struct{ live *live }

func NewLive() Live                 { return Live{newLive(&stored{})} }
func (l Live) Write(p []byte)       { l.live.write(p) }
func (l Live) Finish()              { l.live.finish(nil, nil) }
func (l Live) Join() (r LiveReader) { r.reader, _ = l.live.join(); return r }

// LiveReader reads along.
type LiveReader struct{ reader *reader }

// Next returns how many bytes there were, until there are no more.
func (r LiveReader) Next() (int, error) {
	p, _, err := r.reader.next(nil)
	return len(p), err
}
