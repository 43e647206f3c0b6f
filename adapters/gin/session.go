package ginadapter

import (
	"github.com/gin-gonic/gin"

	"github.com/herdless/herdless/session"
)

// Session returns the session of a request, which must have come through
// Wrap(manager.Handler). It is session.FromContext of the request's context,
// and returns what that returns for a request without a session.
//
// c.Value and session.FromContext(c) do not find it. The methods of a Session, too, take
// c.Request.Context(); see the package documentation.
func Session(c *gin.Context) *session.Session {
	return session.FromContext(c.Request.Context())
}
