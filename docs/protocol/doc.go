// Package protocol is a model of how Offduty upgrades replicas: the application, the
// arbiter, two leaders of the upgrader, Kruise with its caches, and the API server. Its
// tests visit every state within stated bounds, check the promises of the design, and that
// every fair run comes to its end; README.md says what is in it and what is not. Accepts
// checks that what was seen of a real run is something that the model could have done.
//
// state.go is the state; rules.go the variants, promises and everybody but those who have
// files of their own: kruise.go, and upgrader.go with sets.go; explore.go is the search,
// fair.go that for runs without end, trace.go the other direction.
package protocol
