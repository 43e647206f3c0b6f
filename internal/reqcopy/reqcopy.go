// Package reqcopy sees to what a middleware owes a request of which it hands on a copy.
package reqcopy

import "net/http"

// Return gives r what handlers have put into a copy of it for those outside. It belongs
// behind the handler that got the copy, in a defer.
//
// That is the multipart form: net/http removes the temporary files of an upload when a
// request is over, but those of its own request only. And the pattern that an
// http.ServeMux has found, by which middleware outside counts, traces and logs.
func Return(r, copied *http.Request) {
	if r.MultipartForm == nil {
		r.MultipartForm = copied.MultipartForm
	}
	if copied.Pattern != "" {
		r.Pattern = copied.Pattern
	}
}
