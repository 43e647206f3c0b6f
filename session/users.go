package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Sessions returns the sessions of user, the one used last first.
func (m *Manager) Sessions(ctx context.Context, user string) ([]Info, error) {
	if user == "" {
		return nil, errNoUser
	}
	listed, err := m.store.List(ctx, m.tokens.owner(user))
	if err != nil {
		return nil, fmt.Errorf("session: could not list: %w", err)
	}
	infos := make([]Info, 0, len(listed))
	for _, l := range listed {
		info := Info{
			ID: l.ID, User: user, CreatedAt: l.CreatedAt, AuthenticatedAt: l.AuthenticatedAt,
			SeenAt: l.SeenAt, ExpiresIn: l.ExpiresIn,
		}
		// Its user can end it, even if nobody can say where it is.
		sealer := m.vault.forSession(l.ID)
		meta, err := openMeta(&sealer, l.Meta)
		if err != nil {
			m.undecodable(ctx, l.ID, "", err)
		}
		info.Device = meta.device()
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return b.SeenAt.Compare(a.SeenAt) })
	return infos, nil
}

var errNoUser = errors.New("session: the user is empty; sessions of nobody are in no list")

// Revoke ends the session called id if it is one of user's, and reports whether
// it was.
func (m *Manager) Revoke(ctx context.Context, user, id string) (bool, error) {
	if id == "" {
		return false, errors.New("session: the id is empty; RevokeAll ends all sessions of a user")
	}
	n, err := m.revoke(ctx, user, Selection{Only: id})
	return n > 0, err
}

// RevokeAll ends all sessions of user and returns how many there were. When it
// has returned none of them can be used any more, on any server. A login that
// overlaps comes before or after: before, and its session is ended; or after, and
// it lives.
func (m *Manager) RevokeAll(ctx context.Context, user string) (int, error) {
	return m.revoke(ctx, user, Selection{})
}

func (m *Manager) revoke(ctx context.Context, user string, which Selection) (int, error) {
	if user == "" {
		return 0, errNoUser
	}
	ids, ok, err := m.store.Revoke(ctx, m.tokens.owner(user), which)
	switch {
	case err != nil:
		return 0, fmt.Errorf("session: could not revoke: %w", err)
	case !ok:
		return 0, ErrGone
	}
	for _, id := range ids {
		m.forget(id)
		m.happened(ctx, Event{Kind: Revoked, ID: id, User: user})
	}
	return len(ids), nil
}

// Sessions returns the sessions of the user who is logged in, the one used last
// first, and none if nobody is.
func (s *Session) Sessions(ctx context.Context) ([]Info, error) {
	user, id, err := s.who(ctx, false)
	if err != nil || user == "" {
		return nil, err
	}
	infos, err := s.m.Sessions(ctx, user)
	for i := range infos {
		infos[i].Current = infos[i].ID == id
	}
	return infos, err
}

// RevokeOthers ends all other sessions of the user who is logged in, and returns
// how many there were; see Manager.RevokeAll. If the session has ended since the
// request has loaded it, the error is ErrGone and no other ends: who was thrown out
// throws nobody out.
func (s *Session) RevokeOthers(ctx context.Context) (int, error) {
	user, id, err := s.who(ctx, true)
	if err != nil {
		return 0, err
	}
	n, err := s.m.revoke(ctx, user, Selection{Except: id})
	if errors.Is(err, ErrGone) {
		s.m.forget(id)
		s.mu.Lock()
		defer s.mu.Unlock()
		return 0, s.fail(err) // the response must not tell of success
	}
	return n, err
}

// who returns the user that the stored session belongs to, and its id, to read or
// to write.
func (s *Session) who(ctx context.Context, write bool) (user, id string, err error) {
	if err := s.lock(ctx, write); err != nil {
		return "", "", err
	}
	defer s.mu.Unlock()
	if s.login != nil {
		return "", "", errors.New("session: the login is not saved yet; call Save before")
	}
	if !s.stored {
		return "", "", nil
	}
	return s.meta.User, s.token.id, nil
}
