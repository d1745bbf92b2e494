// Package etcd is an application for tests: a real etcd, whose members are processes behind the
// pods of a simulated set, and clients that write to it all the time.
//
// The nodes are simulated (package controlplane), so nobody starts containers. Kubelet does, for
// the pods of one set: what the pod's status says of the container, which follows its image, the
// process does as well. The pod's address is one of this machine's own, on which the process
// listens, and its readiness gate says whether the process serves.
package etcd
