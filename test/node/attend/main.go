// Command attend is the application of the tests on a real node: a replica that attends
// at the arbiter, works while it may, and says so on standard output, one JSON object per
// line. On :8080 it answers the kubelet's probe.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	arbiter "offduty.dev/arbiter/client"
)

// line is what a replica says: it begins or ends to work, at a time of its own clock.
type line struct {
	Time    time.Time
	Working bool
	Version string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attend:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	version, err := os.ReadFile("/version")
	if err != nil {
		return err
	}
	client, err := dial(os.Getenv("ARBITER"), "/etc/offduty/arbiter")
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	say := func(working bool) {
		_ = out.Encode(line{Time: time.Now(), Working: working, Version: strings.TrimSpace(string(version))})
	}
	attendant, err := arbiter.NewAttendant(arbiter.AttendantConfig{
		Client:  client,
		Group:   os.Getenv("NAMESPACE") + "/" + os.Getenv("GROUP"),
		Replica: os.Getenv("NAMESPACE") + "/" + os.Getenv("POD"), Instance: os.Getenv("UID"),
		Now: time.Now,
		Fit: func() bool { return true },
		Work: func(ctx context.Context) {
			say(true)
			<-ctx.Done()
			say(false)
		},
		OnError: func(err error) { fmt.Fprintln(os.Stderr, "attend:", err) },
	})
	if err != nil {
		return err
	}
	probed := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: time.Second}
	go func() {
		if err := probed.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "attend: serve the probe:", err)
		}
	}()
	return errors.Join(attendant.Run(ctx), probed.Close(), client.Close())
}

// dial connects with the certificates of a mounted Secret.
func dial(address, dir string) (*arbiter.Client, error) {
	var t arbiter.TLS
	t.CA.File, t.Cert.File, t.Key.File = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	return arbiter.Dial(arbiter.Config{Address: address, TLS: &t})
}
