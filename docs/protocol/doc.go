// Package protocol is a model of how Offduty upgrades a replica: the application, the
// arbiter, two leaders of the upgrader, Kruise with its caches, and the API server. Its
// tests visit every state within stated bounds and check the promises of the design;
// README.md says what is in it and what is not. Nothing imports it.
//
// state.go is the state; rules.go the variants, promises and everybody but the upgrader;
// upgrader.go the upgrader; explore.go the search.
package protocol
