// Package sim runs the real planner and the real lease table, policy and roster against
// models of the other parties: Kruise's Advanced StatefulSet controller with caches of
// its own, the kubelet, the API server, an application that attends, and an upgrader that
// crashes or is frozen and succeeded by another. Requests to the API server are lost, late and
// repeated, and so are watches lost (network.go). Users write and take back images, pause,
// scale, take targets out of the plan, delete the plan and create another; foreign tools
// write images back and partitions. Time is virtual and one seed decides everything, so
// that any run can be told again.
//
// A step is one event that is delivered to one actor: it hears of one change, or makes one
// request, or acts once. A tick that has nothing for the actor that it chose is no step,
// and counted apart (event.go). After each tick the promises of the design are asserted; at the end the plan must have
// completed, or be gone without a trace. Rules of the models cite what they stand for: "K" is a file of
// pkg/controller/statefulset in github.com/openkruise/kruise v1.8.3, "I" its
// pkg/util/inplaceupdate/inplace_update.go, "L" its pkg/util/lifecycle/lifecycle_utils.go.
//
// The upgrader in a process is one of two. The real one (Case.Real) is controller.Reconciler
// with all that it calls; its reads come from the process's cache, its patches are applied to
// the model's objects byte by byte, and a field that the models do not know fails the run.
// The mirror (upgrader.go) does the same by hand, about ten times as fast, so that most seeds
// run with it. TestTheMirrorIsFaithful compares what both see of the same caches.
package sim
