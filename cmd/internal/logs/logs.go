// Package logs makes the log of both daemons: JSON lines with the same fields, which
// docs/monitoring.md lists.
package logs

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
)

// New returns a log that writes to w. level is info or debug; debug shows every decision
// and call, info what was written and what changed hands.
func New(w io.Writer, level string) (logr.Logger, error) {
	o := &slog.HandlerOptions{ReplaceAttr: replace}
	switch level {
	case "info":
		o.Level = slog.LevelInfo
	case "debug":
		o.Level = slog.LevelDebug
	default:
		return logr.Logger{}, fmt.Errorf("--log-level %q: want info or debug", level)
	}
	return logr.FromSlogHandler(slog.NewJSONHandler(w, o)), nil
}

// replace names the level of a line: info, error or debug. logr's V(1) is one below slog's
// info, which slog would print as DEBUG+3.
func replace(groups []string, a slog.Attr) slog.Attr {
	level, ok := a.Value.Any().(slog.Level)
	if len(groups) > 0 || a.Key != slog.LevelKey || !ok {
		return a
	}
	switch {
	case level >= slog.LevelError:
		return slog.String(a.Key, "error")
	case level >= slog.LevelInfo:
		return slog.String(a.Key, "info")
	}
	return slog.String(a.Key, "debug")
}
