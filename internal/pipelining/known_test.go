package pipelining_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Nobody waits beyond its deadline for a Cluster that has never answered.
func TestDeadlinesHoldWhileAClusterIsNotKnown(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{silent.Addr().String()}, ReadTimeout: 3 * time.Second, MaxRedirects: -1})
	defer rdb.Close()
	c := pipelining.New(rdb, false)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Get(ctx, "k")
		return nil
	})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.Run(ctx, echo, []string{"k"}, "")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 100*time.Millisecond+slack)
}
