// Package version knows which version of Offduty this program is.
package version

import "runtime/debug"

// stamped is set when an image or a release is built (hack/images):
// -ldflags '-X offduty.dev/cmd/internal/version.stamped=v1.2.3'.
var stamped string

// Get returns the stamped version, or else what the Go tool knows of this build.
func Get() string {
	if stamped != "" {
		return stamped
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return info.Main.Version + " " + s.Value[:12]
		}
	}
	return info.Main.Version
}
