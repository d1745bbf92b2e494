// Package v1alpha1 holds the API objects of offduty.dev: the UpgradePlan, which a
// user applies, and the Roster, which configures the reference arbiter for one group.
//
// +kubebuilder:object:generate=true
// +groupName=offduty.dev
package v1alpha1
