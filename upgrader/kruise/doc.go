// Package kruise is what we know of OpenKruise's Advanced StatefulSet: how a set is taken
// over and given back, and how a pod's state is read. It reads objects and builds
// patches; it does not talk to a server.
//
// Facts are cited as (file of github.com/openkruise/kruise v1.8.3).
package kruise
