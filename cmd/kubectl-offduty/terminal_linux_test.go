package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"offduty.dev/upgrader/view"
)

// terminal opens a pseudo-terminal of 40 columns and 8 lines; what the program prints to
// program can be read from person, and the other way round.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 8, Col: 40}); err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return person, program
}

// readUntil reads what the program prints, up to some text.
func readUntil(t *testing.T, person *os.File, text string) string {
	t.Helper()
	var all strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := person.Read(b)
		if err != nil {
			t.Fatalf("%v, after %q", err, all.String())
		}
		all.Write(b[:n])
	}
	return strings.ReplaceAll(all.String(), "\r\n", "\n")
}

func TestOnATerminalTheTreeIsDrawnOver(t *testing.T) {
	person, program := terminal(t)
	now := time.Unix(1000, 0)
	o := &statusOptions{options: &options{streams: genericiooptions.IOStreams{Out: program}}, now: func() time.Time { return now }}
	s := newScreen(o)
	first := &view.Plan{Name: "sample", State: view.UnderWay, Reason: "Updating", Message: "one"}
	s.show(first)
	s.tick()
	if got := readUntil(t, person, "one"); strings.Contains(got, "\x1b") {
		t.Errorf("the first drawing moves the cursor: %q", got)
	}
	// Nothing new: nothing is drawn. A second later the ages are.
	s.tick()
	now = now.Add(time.Second)
	s.tick()
	s.show(&view.Plan{Name: "sample", State: view.Complete, Reason: "Complete", Message: "two"})
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	got := readUntil(t, person, "two")
	if n := strings.Count(got, "\x1b[4A\x1b[J"); n != 2 {
		t.Errorf("it is drawn over %d times, not twice: %q", n, got)
	}
	for line := range strings.Lines(got) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 40+len("\x1b[4A\x1b[J") {
			t.Errorf("a line of %d is too long for the terminal: %q", n, line)
		}
	}
}

func TestOnATerminalItAsks(t *testing.T) {
	for answer, want := range map[string]string{"y\n": "", "yes\n": "", "\n": "nothing was done", "n\n": "nothing was done"} {
		person, program := terminal(t)
		var problems strings.Builder
		o := &releasePinOptions{options: &options{streams: genericiooptions.IOStreams{In: program, ErrOut: &problems}}}
		if _, err := person.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := o.confirm("what is lost"); err != nil {
			got = err.Error()
		}
		if got != want || problems.String() != "what is lost\nrelease it? (y/N): " {
			t.Errorf("answered %q it asks %q and says %q, not %q", answer, problems.String(), got, want)
		}
	}
}
