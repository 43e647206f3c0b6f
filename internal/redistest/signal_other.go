//go:build !unix

package redistest

import (
	"errors"
	"os"
	"syscall"
)

// Other systems only need to compile this package: redis-server does not run
// on them.

func ownGroup() *syscall.SysProcAttr { return nil }

func suspend(*os.Process) error { return errors.ErrUnsupported }
func resume(*os.Process) error  { return errors.ErrUnsupported }

func claim(*os.File, int) bool { return true }
func unclaim(*os.File, int)    {}
