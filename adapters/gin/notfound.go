package ginadapter

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// gin's own answers to unknown routes and methods. gin writes them after the
// whole chain, where no middleware would see them.
const (
	body404 = "404 page not found"
	body405 = "405 method not allowed"
)

// finishChain does at the end of the chain behind the middleware what gin does
// at the end of the whole chain, so that the middleware sees it: it sends a
// header that the handlers left unsent, and gin's default error page where no
// handler wrote one.
//
// Handlers that set no status and wrote nothing leave it at that: the middleware
// has to see that there is no response, and gin middleware in front may write
// one. It reports whether all that it sent is a status that gin itself would
// still hold back.
func finishChain(c *gin.Context, inner *writer) (lazy bool) {
	switch {
	case inner.Written():
	case inner.status == inner.first && isDefaultError(c, inner.status):
		body := body404
		if inner.status == http.StatusMethodNotAllowed {
			body = body405
		}
		c.Writer.Header().Set("Content-Type", gin.MIMEPlain)
		if _, err := c.Writer.Write([]byte(body)); err != nil {
			_ = c.Error(err)
		}
	case inner.chosen:
		inner.WriteHeaderNow()
		return true
	}
	return false
}

// isDefaultError reports whether gin sends its default error page for a
// response of this status without a body.
func isDefaultError(c *gin.Context, status int) bool {
	return c.FullPath() == "" && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed)
}
