package shop

import (
	"context"
	"errors"
	"net/http"
	"time"
)

var (
	// ErrNotFound is returned for what the shop does not have.
	ErrNotFound = errors.New("not found")
	// ErrInvalid is returned for what a visitor may not ask for. Its text is
	// meant for them.
	ErrInvalid = errors.New("that does not work")
)

// ProblemView is a page about something that went wrong.
type ProblemView struct {
	Page
	Status int
	Emoji  string
	Head   string
	Text   string
	// Wait is how many seconds the visitor should wait, if any.
	Wait int
}

// Problem makes a page of an error.
func (s *Shop) Problem(err error) *ProblemView {
	switch {
	case errors.Is(err, ErrNotFound):
		return s.ProblemStatus(http.StatusNotFound, "")
	case errors.Is(err, ErrInvalid):
		return s.ProblemStatus(http.StatusBadRequest, err.Error())
	case errors.Is(err, context.Canceled):
		return s.ProblemStatus(http.StatusServiceUnavailable, "")
	}
	// All that is left is the store of the sessions.
	s.log.Error("a request failed", "node", s.node, "error", err)
	return s.ProblemStatus(http.StatusServiceUnavailable, "")
}

// ProblemStatus makes a page for a status; text may be empty.
func (s *Shop) ProblemStatus(status int, text string) *ProblemView {
	v := &ProblemView{Status: status, Text: text}
	standard := ""
	switch status {
	case http.StatusNotFound:
		v.Emoji, v.Head = "🌫️", "Nothing grazes here"
		standard = "The page that you asked for does not exist, or no longer does."
	case http.StatusBadRequest:
		v.Emoji, v.Head = "🤔", "That did not work"
		standard = "The shop could not make sense of this request."
	case http.StatusUnauthorized:
		v.Emoji, v.Head = "👋", "Your visit has ended"
		standard = "You have logged out, or have been away for long. Log in again, on any node."
	case http.StatusForbidden:
		v.Emoji, v.Head = "🚧", "Not from over there"
		standard = "This form was sent from another site, so that the shop has ignored it."
	case http.StatusServiceUnavailable:
		v.Emoji, v.Head = "😴", "The shop is catching its breath"
		standard = "Something behind this page does not answer right now. Your cart is safe; please try again in a moment."
	default:
		v.Emoji, v.Head = "🙈", "That was our fault"
		standard = "Something broke on our side. We have written it down."
	}
	if v.Text == "" {
		v.Text = standard
	}
	v.Page = s.page("", v.Head)
	return v
}

// TooMany makes the page for a visitor who is too fast.
func (s *Shop) TooMany(wait time.Duration) *ProblemView {
	v := &ProblemView{
		Status: http.StatusTooManyRequests, Emoji: "🐌", Head: "One sheep at a time",
		Text: "You have searched faster than this shop allows. The limit is counted across all nodes, " +
			"so reloading from another one does not help.",
		Wait: max(1, int((wait+time.Second-1)/time.Second)),
	}
	v.Page = s.page("search", v.Head)
	return v
}
