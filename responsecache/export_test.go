package responsecache

import "net/http"

// What the fuzz tests look at.
type (
	Stored    = stored
	VaryIndex = varyIndex
)

func NewStored(status int, public bool, h http.Header, body []byte) *Stored {
	return &stored{status: status, public: public, header: h, body: body}
}

func (s *Stored) Parts() (int, bool, http.Header, []byte) {
	return s.status, s.public, s.header, s.body
}
func (s *Stored) Encode() []byte               { return s.encode() }
func (x *VaryIndex) Parts() (string, []string) { return x.generation, x.names }

var (
	DecodeStored = decodeStored
	DecodeIndex  = decodeIndex
	JoinParts    = joinParts
)

// Lifetime returns the max-age of h as the cache understands it.
func Lifetime(h http.Header) (seconds float64, private, ok bool) {
	cc := parseCacheControl(h)
	d, ok := cc.seconds("max-age")
	return d.Seconds(), cc.has("private"), ok
}
