package redistest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// admin returns the client with which the package itself speaks to a server
// or a sentinel. It fails soon and does not retry: whoever uses it polls.
func (s *Server) admin() *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:                     s.Addr(),
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              2 * time.Second,
		ReadTimeout:              2 * time.Second,
		// The pool backs off once as many dials have failed.
		PoolSize: 1000,
	})
}

// do runs one command on the server.
func (s *Server) do(ctx context.Context, args ...any) *redis.Cmd {
	rdb := s.admin()
	defer rdb.Close()
	return rdb.Do(ctx, args...)
}

// table runs a command whose reply is a list of alternating names and values.
func (s *Server) table(ctx context.Context, args ...any) (map[string]string, error) {
	list, err := s.do(ctx, args...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("%v on %s: %w", args, s.Addr(), err)
	}
	return pairs(list), nil
}

// tables runs a command whose reply is a list of such lists.
func (s *Server) tables(ctx context.Context, args ...any) ([]map[string]string, error) {
	rows, err := s.do(ctx, args...).Slice()
	if err != nil {
		return nil, fmt.Errorf("%v on %s: %w", args, s.Addr(), err)
	}
	var out []map[string]string
	for _, row := range rows {
		fields, ok := row.([]any)
		if !ok {
			return nil, fmt.Errorf("%v on %s: unexpected reply %v", args, s.Addr(), row)
		}
		var list []string
		for _, field := range fields {
			list = append(list, fmt.Sprint(field))
		}
		out = append(out, pairs(list))
	}
	return out, nil
}

func pairs(list []string) map[string]string {
	m := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

// info returns a section of INFO.
func (s *Server) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := s.do(ctx, "INFO", section).Text()
	if err != nil {
		return nil, fmt.Errorf("INFO %s on %s: %w", section, s.Addr(), err)
	}
	return fields(text), nil
}

// fields reads the "name:value" lines of INFO and CLUSTER INFO.
func fields(text string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[name] = value
		}
	}
	return m
}

// follows returns nil if the server is a replica of primary whose link is up.
func (s *Server) follows(ctx context.Context, primary *Server) error {
	info, err := s.info(ctx, "replication")
	if err != nil {
		return err
	}
	of := info["master_host"] + ":" + info["master_port"]
	if info["role"] != "slave" || of != primary.Addr() || info["master_link_status"] != "up" {
		return fmt.Errorf("%s is no replica of %s in good state: role %q, of %q, link %q",
			s.Addr(), primary.Addr(), info["role"], of, info["master_link_status"])
	}
	return nil
}

// feeds returns nil if the server counts n replicas that are up to date.
func (s *Server) feeds(ctx context.Context, n int) error {
	info, err := s.info(ctx, "replication")
	if err != nil {
		return err
	}
	online := 0
	for name, value := range info {
		if strings.HasPrefix(name, "slave") && strings.Contains(value, "state=online") {
			online++
		}
	}
	if info["role"] != "master" || online < n {
		return fmt.Errorf("%s is %s with %d replicas online, not master with %d", s.Addr(), info["role"], online, n)
	}
	return nil
}

// writable returns nil if the server accepts writes. The write is one without
// effect, which a replica refuses all the same. A cluster node may answer that
// the key belongs elsewhere.
func (s *Server) writable(ctx context.Context) error {
	err := s.do(ctx, "DEL", "herdless:redistest:no-such-key").Err()
	if err != nil {
		return fmt.Errorf("write on %s: %w", s.Addr(), err)
	}
	return nil
}

// all calls check for each server and joins the errors.
func all(list []*Server, check func(s *Server) error) error {
	var errs []error
	for _, s := range list {
		errs = append(errs, check(s))
	}
	return errors.Join(errs...)
}

// withLogs adds what the servers printed last to an error.
func withLogs(err error, list ...*Server) error {
	for _, s := range list {
		s.mu.Lock()
		err = fmt.Errorf("%w\n%s: %s", err, s.Addr(), s.proc.logTail())
		s.mu.Unlock()
	}
	return err
}
