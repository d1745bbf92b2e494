// Package node runs a real Kubernetes node on this machine, for tests: kubelet,
// containerd, runc, kube-proxy and CNI beside the control plane of package
// controlplane, with Kruise as a pod. It needs Linux, root and apt; nothing is
// installed, and nothing is changed outside of the namespaces that it makes.
//
//	func TestMain(m *testing.M) { node.Main(m, images) }
//
//	func TestSomething(t *testing.T) {
//		n := node.Shared(t)
//		...
//	}
//
// # Namespaces
//
// Main runs the whole test binary once more, in network, mount, process, UTS, IPC
// and cgroup namespaces of its own. So the tests see the node as a program on it
// would: pods and Services by their addresses, containers' logs under
// /var/log/pods. From outside nothing can be reached, and no port is taken.
//
//	go test               keeps a cgroup and a folder under /tmp
//	├─ janitor            removes both when the next one has ended, however it ended
//	└─ init (process 1)   mounts, addresses; collects what is orphaned
//	   └─ the tests       control plane, containerd, kubelet, kube-proxy, the tests
//
// The kernel ends everything in the namespaces when process 1 ends, and process 1
// when go test's process ends: a panic or kill -9 leaves nothing behind.
//
// # What is not as on other nodes
//
// Names of Services are answered by a small DNS server of this package in place of
// CoreDNS. Images come from files, there is no registry. Sysctls that belong to the
// whole machine are shown to the kubelet as it wants them, and stay as they are.
package node
