package controlplane

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// AuditEvent is one finished request to the API server. A watch counts
// once, at its start.
type AuditEvent struct {
	User      string
	UserAgent string
	// Verb is get, list, watch, create, update, patch, delete or deletecollection.
	Verb string
	// Group, Resource, Subresource, Namespace and Name are those of the request;
	// Name is empty for lists and for names that the server made up.
	Group, Resource, Subresource, Namespace, Name string
	// URI is the request's path and query; a dry run has dryRun=All in it.
	URI string
	// Code is the HTTP status.
	Code int
	// Body is what was sent, for writes to pods, Kruise's StatefulSets and the
	// kinds of offduty.dev. In a server-side apply it is the applied object.
	Body json.RawMessage
	// Time is when the request was answered, by the clock of this machine.
	Time time.Time
}

// Write says whether the request changed something, or could have: it succeeded
// and was no dry run. A patch that made no difference counts.
func (e AuditEvent) Write() bool {
	return e.Code < 300 && !strings.Contains(e.URI, "dryRun=All") && slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb)
}

// AuditMark is a place in the audit log.
type AuditMark int64

func (c *Cluster) auditLogPath() string { return c.file("logs", "audit.log") }

// AuditMark is the end of the last whole line of the audit log. The API server may log a
// request shortly after its client has the answer, so a test that counts
// exactly makes a request of its own and waits for it with AuditSince.
func (c *Cluster) AuditMark() (AuditMark, error) {
	file, err := os.Open(c.auditLogPath())
	if err != nil {
		return 0, fmt.Errorf("open the audit log: %w", err)
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("look at the audit log: %w", err)
	}
	return lastLineEnd(file, size)
}

// lastLineEnd is where the last whole line ends: the API server may be writing the next one.
func lastLineEnd(log io.ReaderAt, size int64) (AuditMark, error) {
	const block = 1 << 16
	for end := size; end > 0; {
		start := max(0, end-block)
		text := make([]byte, end-start)
		if _, err := log.ReadAt(text, start); err != nil {
			return 0, fmt.Errorf("look for the last whole line of the audit log: %w", err)
		}
		if at := bytes.LastIndexByte(text, '\n'); at >= 0 {
			return AuditMark(start + int64(at) + 1), nil
		}
		end = start
	}
	return 0, nil
}

// AuditSince reads the events after mark (0: all) that keep accepts (nil: all),
// in the order in which the requests ended.
func (c *Cluster) AuditSince(mark AuditMark, keep func(AuditEvent) bool) ([]AuditEvent, error) {
	file, err := os.Open(c.auditLogPath())
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(int64(mark), 0); err != nil {
		return nil, fmt.Errorf("go to a place in the audit log: %w", err)
	}
	return readAudit(file, keep)
}

// auditLine is the part of Kubernetes' audit.k8s.io/v1 Event that we read.
type auditLine struct {
	Stage      string `json:"stage"`
	RequestURI string `json:"requestURI"`
	Verb       string `json:"verb"`
	UserAgent  string `json:"userAgent"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		APIGroup    string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	RequestObject  json.RawMessage `json:"requestObject"`
	StageTimestamp time.Time       `json:"stageTimestamp"`
}

func (l auditLine) event() AuditEvent {
	return AuditEvent{
		User: l.User.Username, UserAgent: l.UserAgent, Verb: l.Verb,
		Group: l.ObjectRef.APIGroup, Resource: l.ObjectRef.Resource, Subresource: l.ObjectRef.Subresource,
		Namespace: l.ObjectRef.Namespace, Name: l.ObjectRef.Name,
		URI: l.RequestURI, Code: l.ResponseStatus.Code, Body: l.RequestObject, Time: l.StageTimestamp,
	}
}

// readAudit reads whole lines only: the API server may be writing the last one.
func readAudit(log io.Reader, keep func(AuditEvent) bool) ([]AuditEvent, error) {
	reader := bufio.NewReaderSize(log, 1<<16)
	var events []AuditEvent
	for {
		text, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		var line auditLine
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("read a line of the audit log (%.80q): %w", text, err)
		}
		// A watch has a line at its start too; it is counted once, at its start.
		counted := line.Stage == "ResponseComplete" && line.Verb != "watch" || line.Stage == "ResponseStarted" && line.Verb == "watch" || line.Stage == "Panic"
		if event := line.event(); counted && (keep == nil || keep(event)) {
			events = append(events, event)
		}
	}
}
