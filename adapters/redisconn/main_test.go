package redisconn_test

import (
	"os"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }
