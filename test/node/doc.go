// Package node runs all of Offduty as pods, from its images and by its manifests, on a
// real node with the real Kruise beside it, and upgrades real containers in place.
package node
