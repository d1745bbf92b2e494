// Package harness runs Offduty on a test control plane and judges it from outside.
//
// System is the arbiter and the upgraders, as processes under the service accounts of
// config/default. Stage is one namespace with an application in it: History records
// every version of its objects, Attendants are the application, Prove compares what
// happened with the promises of the design. Nothing in here calls the upgrader's or the
// arbiter's own code, but for the client with which an application attends.
package harness
