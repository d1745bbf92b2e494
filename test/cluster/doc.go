// Command cluster brings up a real Kubernetes control plane with the real
// Kruise manager on this machine, with nothing but the go command:
//
//	go run ./test/cluster build            # minutes the first time, then nothing to do
//	go run ./test/cluster up               # stays up until Ctrl-C; prints the kubeconfig
//	go run ./test/cluster kubectl get pods -A
//	go run ./test/cluster down
//
// The packages below it:
//
//	binaries      builds etcd, Kubernetes, kwok and Kruise from the pinned modules in tools
//	pki           certificates of the test authority
//	daemon        child processes that can be killed and frozen, and never outlive us
//	controlplane  the running control plane; its documentation is the place to start
//	clustertest   one control plane per test binary
//	node          a real node beside it, in namespaces of its own: Linux, as root
//	standing      the one control plane that was started by hand, so that down finds it
//
// The modules in tools are nested, so that the root module's dependencies stay
// its own. To move to another version, change the version there, run go mod tidy
// in that folder and, for Kubernetes, give every k8s.io module of the replace
// block the same release.
package main
