package sim

import (
	"syscall"
	"time"
)

// processor is the time that the processors have spent on this program: on a machine with
// other work the hands of a clock say little.
func processor() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
