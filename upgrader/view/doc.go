// Package view makes of API objects what a person or a pipeline wants to know: whether a
// plan is done, what it waits for, what to do about it, and what it could go back to. It is
// pure: no I/O, no clock. kubectl-offduty prints what it returns.
package view
