package rediscache

// Encode and Decode are the codec, for its tests.
var (
	Encode = encode
	Decode = decode
)
