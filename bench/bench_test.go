package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(addrVar); addr != "" {
		if err := serveProcess(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(idlerVar) != "" {
		if err := idleUntilClosed(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(redistest.Run(m))
}
