//go:build !linux

package node

import (
	"context"
	"fmt"
	"runtime"
)

// Missing says what this machine lacks for a real node; nil: nothing.
func Missing(context.Context) error {
	return fmt.Errorf("it needs Linux, and this is %s", runtime.GOOS)
}
