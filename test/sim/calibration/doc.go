// Package calibration holds recordings of the real Kruise, and what it takes to compare
// anything with them: the model of Kruise in test/sim, or a newer Kruise.
//
// A recording (testdata) is a story: inputs, and what became visible after each of them,
// until nothing more happened. It is recorded on a real control plane by test/e2e/calibration,
// without any upgrader, and replayed in the model by test/sim:
//
//	go test ./test/e2e/calibration            # does Kruise still behave as recorded?
//	go test ./test/e2e/calibration -rewrite   # record anew
//	go test ./test/sim -run Recordings        # does the model behave as recorded?
//
// Inputs:
//
//	kruise                     which Kruise is it?
//	create KEY=VALUE…          a set named web; its template has the label working: "false"
//	set KEY=VALUE…             change it, in one request
//	pod ORDINAL… KEY=VALUE…    labels of pods: hold, grant, working, state ("-" takes it off)
//	delete ORDINAL…            delete pods
//	kubelet ORDINAL… stops     the pods' containers stay as they are, until it "goes"
//	current REVISION           patch status.currentRevision
//
// Keys of a set: replicas, image, partition, hook, weights (on, off), unavailable
// (maxUnavailable), grace (seconds), policy (podUpdatePolicy), env (a change that cannot be
// made in place), born=held (the hold is in the template).
//
// What becomes visible, for each pod that changed: its versions, one a line, as far as users
// and Kruise write them. "#2" is the second pod of that name, "r2" the second revision; state
// ("-" if absent); InPlaceUpdateReady "open", "shut" or "?" (there is no such condition), or
// "unfinished" from the update on until Kruise's record of it says that it is done; the labels; the image that runs, once the pod was updated in place; at last how it rests.
// "begins" is the order in which Kruise began to update pods (it makes a pod PreparingUpdate,
// shuts it, or gives it another revision), and where in it the generation of the input was observed.
//
// While an update is unfinished the condition is not told: mostly it is False, but Kruise may
// set it to True. It decides that on the pod as its cache had it when the round began, which
// may be from before the update, and writes it into the pod as it is now
// (inplace_update.go:119, Refresh; :174, updateCondition).
//
// The set's revisions are told once each: a round of Kruise carries the current revision that
// its cache had, and may write it over a newer one (stateful_set_status_updater.go:54).
//
// It is a partial order: how the versions of two pods lie between each other is not
// recorded but for the beginnings, as kubelets, and Kruise itself where it creates, refreshes
// and deletes pods (stateful_set_control.go:1280, slowStartBatch), work in parallel.
package calibration
