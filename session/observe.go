package session

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
)

// Kind says what happened.
type Kind uint8

const (
	// Created: a session began.
	Created Kind = iota + 1
	// Renewed: a session got a new token.
	Renewed
	// Expired: a client came with a token of ours, the session of which has
	// ended, by its time or otherwise.
	Expired
	// Revoked: a session was ended, by Destroy, by Revoke and its kin, or
	// because the user logged in once too often.
	Revoked
	// Theft: a client came with a token that was replaced longer than
	// Options.RenewGrace ago. Either it has missed the answer that told it the
	// new one, or one of the two has stolen the token. It is told once a token.
	Theft
	// Conflicted: an Update came too late and tries again.
	Conflicted
	// Refused: a Commit was refused; Err says why.
	Refused
	// Undecodable: a value, or if Name is empty a whole session, could not be
	// read, and is as good as none; Err says why.
	Undecodable
	// StoreFailed: the store has failed; Err says how. While the circuit
	// breaker is open it is not asked, and this is not told.
	StoreFailed
	kinds // how many there are
)

// String returns the name of k, in lower case.
func (k Kind) String() string {
	names := [kinds]string{
		"unknown", "created", "renewed", "expired", "revoked", "theft", "conflicted", "refused", "undecodable", "store failed",
	}
	if k >= kinds {
		k = 0
	}
	return names[k]
}

// Event is something that happened to a session. What does not belong to its
// Kind is empty.
type Event struct {
	Kind Kind
	// ID names the session, as in Info.
	ID string
	// User is the user, where it is known.
	User string
	// Name is the name of a value.
	Name string
	Err  error
}

// Stats counts the events since the Manager was made.
type Stats struct {
	Created, Renewed, Expired, Revoked, Thefts, Conflicts, Refused, Undecodable, StoreFailed uint64
	// Open says that the circuit breaker is open: the store has failed, and is
	// asked once a second only.
	Open bool
	// Watched is how many contexts of Session.Context there are.
	Watched int
}

// Stats returns what has happened so far, on this server.
func (m *Manager) Stats() Stats {
	n := func(k Kind) uint64 { return m.counts[k].Load() }
	return Stats{
		Created: n(Created), Renewed: n(Renewed), Expired: n(Expired), Revoked: n(Revoked), Thefts: n(Theft),
		Conflicts: n(Conflicted), Refused: n(Refused), Undecodable: n(Undecodable), StoreFailed: n(StoreFailed),
		Open: m.store.open(), Watched: m.watcher.count(),
	}
}

type counts [kinds]atomic.Uint64

// happened counts e and tells it to Options.Observe.
func (m *Manager) happened(ctx context.Context, e Event) {
	m.counts[e.Kind].Add(1)
	if m.opts.Observe != nil {
		m.opts.Observe(ctx, e)
	}
}

// undecodable tells of a value that is as good as none. The error of a codec may
// quote the value, which belongs into no log.
func (m *Manager) undecodable(ctx context.Context, id, name string, err error) {
	m.opts.Logger.LogAttrs(NewContext(ctx, nil), slog.LevelWarn, "session: a value cannot be read and is passed over",
		slog.String("session", id), slog.String("name", name))
	m.happened(ctx, Event{Kind: Undecodable, ID: id, Name: name, Err: err})
}

// refused tells of a commit that was refused.
func (m *Manager) refused(ctx context.Context, id string, err error) {
	m.happened(ctx, Event{Kind: Refused, ID: id, Err: err})
}

// stolen tells of a token that was replaced, and revokes the session if the
// options say so.
func (m *Manager) stolen(ctx context.Context, id string) {
	m.log(ctx, slog.LevelWarn, "session: a token that was replaced has been used again", id, nil)
	m.happened(ctx, Event{Kind: Theft, ID: id})
	if !m.opts.RevokeOnTheft {
		return
	}
	m.forget(id)
	if _, err := m.store.Delete(context.WithoutCancel(ctx), id); err != nil { // whoever has presented it may hang up
		m.log(ctx, slog.LevelError, "session: could not revoke the session whose token was used again", id, err)
		return
	}
	m.happened(ctx, Event{Kind: Revoked, ID: id})
}

func (m *Manager) log(ctx context.Context, level slog.Level, msg, id string, err error) {
	attrs := []slog.Attr{slog.String("session", id)}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	if errors.Is(err, ErrUnavailable) && level > slog.LevelWarn {
		level = slog.LevelWarn
	}
	m.opts.Logger.LogAttrs(NewContext(ctx, nil), level, msg, attrs...)
}
