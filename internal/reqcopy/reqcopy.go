// Package reqcopy sees to what a middleware owes a request of which it hands on a copy.
package reqcopy

import "net/http"

// ReturnForm gives r the multipart form that was parsed in a copy of it: net/http removes
// the temporary files of an upload when a request is over, but those of its own request
// only. It belongs behind the handler that got the copy, in a defer.
func ReturnForm(r, copied *http.Request) {
	if r.MultipartForm == nil {
		r.MultipartForm = copied.MultipartForm
	}
}
