package controller

import (
	"bytes"
	"time"
)

// authorities are those of one arbiter. One is replaced in three steps, so that at any
// time everybody accepts everybody: the next is made and made known; after the overlap it
// signs, and everything is signed anew; when what the previous one has signed has expired,
// that one is forgotten.
type authorities struct {
	signing, next keyPair
	// previous is a certificate; its key is thrown away.
	previous []byte
}

// bundle is what is trusted.
func (a authorities) bundle() []byte {
	return bytes.Join([][]byte{a.signing.Cert, a.next.Cert, a.previous}, nil)
}

// step does what is due at now. asked: a new authority is wanted before its time.
func (a authorities) step(now time.Time, l life, asked bool) (_ authorities, changed bool, err error) {
	until, made, ok := a.signing.authority(l)
	if !ok || !now.Before(until) {
		// Missing, broken or forgotten for years: there is nothing to go on from.
		fresh, err := newAuthority("offduty-arbiter", now, l)
		return authorities{signing: fresh}, true, err
	}
	_, nextMade, known := a.next.authority(l)
	switch {
	case !known && (asked || now.Add(2*time.Duration(l)).After(until)):
		a.next, err = newAuthority("offduty-arbiter", now, l)
		return a, true, err
	case known && !now.Before(nextMade.Add(l.overlap())):
		return authorities{signing: a.next, previous: a.signing.Cert}, true, nil
	case a.previous != nil && !now.Before(made.Add(l.overlap()+time.Duration(l))):
		a.previous = nil
		return a, true, nil
	}
	return a, false, nil
}

// authority says until when p is an authority, when it was made, and whether it is one.
func (p keyPair) authority(l life) (until, made time.Time, ok bool) {
	cert, _, err := openPair(p)
	if err != nil || !cert.IsCA {
		return time.Time{}, time.Time{}, false
	}
	return cert.NotAfter, cert.NotBefore.Add(l.skew()), true
}
