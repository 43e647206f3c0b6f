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
	return s.status, s.public, s.header, s.body
}
func (s *Stored) Encode() []byte                  { return s.encode() }
func (f *Found) Response() *Stored                { return f.response }
func (f *Found) Index() (names []string, ok bool) { return f.index.names, f.isIndex() }
func (f *Found) Alias() (string, bool)            { return f.alias.rule, f.isAlias() }

var (
	Decode    = decode
	JoinParts = joinParts
)

// KeyOf returns the key of the page that r asks for.
func KeyOf(r *http.Request) string {
	name := nameOf(r, nil)
	return name.key()
}
