package harness

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Save writes the evidence to a file, from which ReadEvidence has it again.
func (e Evidence) Save(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save the evidence: %w", err)
	}
	z := gzip.NewWriter(f)
	if err := errors.Join(json.NewEncoder(z).Encode(e), z.Close(), f.Close()); err != nil {
		return fmt.Errorf("save the evidence as %s: %w", path, err)
	}
	return nil
}

// ReadEvidence is the inverse of Save.
func ReadEvidence(path string) (e Evidence, err error) {
	f, err := os.Open(path)
	if err != nil {
		return e, fmt.Errorf("read recorded evidence: %w", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(z).Decode(&e)
	}
	if err != nil {
		return e, fmt.Errorf("read recorded evidence from %s: %w", path, err)
	}
	return e, nil
}
