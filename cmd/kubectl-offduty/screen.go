package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"offduty.dev/upgrader/view"
)

// screen shows a plan again and again: on a terminal in place, otherwise one line for each
// change (or one document, with -o).
type screen struct {
	o        *statusOptions
	terminal int // file descriptor; -1: none
	last     *view.Plan
	line     string
	lines    int // drawn last
	dirty    bool
	drawn    time.Time
	err      error
}

func newScreen(o *statusOptions) *screen {
	s := &screen{o: o, terminal: -1}
	if f, ok := o.streams.Out.(*os.File); ok && o.output == "" && term.IsTerminal(int(f.Fd())) {
		s.terminal = int(f.Fd())
	}
	return s
}

// show notes what is to be shown.
func (s *screen) show(p *view.Plan) {
	if s.terminal >= 0 {
		s.dirty = s.dirty || s.last != p
		s.last = p
		return
	}
	if line := p.Line(); line != s.line {
		s.line = line
		if s.o.output == "" {
			_, s.err = fmt.Fprintln(s.o.streams.Out, line)
			return
		}
		s.err = s.o.print(p)
	}
}

// tick draws what is new, and once a second the ages.
func (s *screen) tick() {
	if now := s.o.now(); s.terminal >= 0 && (s.dirty || now.Sub(s.drawn) >= time.Second) {
		s.draw(now)
	}
}

// finish draws the last state.
func (s *screen) finish() error {
	if s.terminal >= 0 {
		s.draw(s.o.now())
	}
	return s.err
}

func (s *screen) draw(now time.Time) {
	if s.last == nil {
		return
	}
	var b bytes.Buffer
	if s.err = s.last.Tree(&b, now); s.err != nil {
		return
	}
	width, height, err := term.GetSize(s.terminal)
	if err != nil {
		width, height = 80, 24
	}
	text := fit(b.String(), width, height)
	up := ""
	if s.lines > 0 {
		up = fmt.Sprintf("\x1b[%dA\x1b[J", s.lines) // up, and clear what is below
	}
	_, s.err = fmt.Fprint(s.o.streams.Out, up+text)
	s.lines, s.drawn, s.dirty = strings.Count(text, "\n"), now, false
}

// fit cuts a text to what a terminal can show without scrolling, so that it can be drawn
// over. The plan's message, at the end, is kept.
func fit(text string, width, height int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if room := height - 1; len(lines) > room && room > 4 {
		const tail = 2 // an empty line and the message
		left := len(lines) - room + 1
		lines = append(append(lines[:room-tail-1:room-tail-1], fmt.Sprintf("… %d more", left)), lines[len(lines)-tail:]...)
	}
	for i, l := range lines {
		if width > 1 && utf8.RuneCountInString(l) > width {
			lines[i] = string([]rune(l)[:width-1]) + "…"
		}
	}
	return strings.Join(lines, "\n") + "\n"
}
