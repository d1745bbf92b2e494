// Package controlplane runs a real Kubernetes control plane on this machine,
// for tests and for trying things out: etcd, kube-apiserver with RBAC and an
// audit log, kube-controller-manager, kube-scheduler, and the unmodified Kruise
// manager with its webhooks. The nodes are simulated by kwok.
//
// It needs the go command and nothing else: no root, no container runtime, no
// kubectl. Everything listens on 127.0.0.1, with one exception: Kruise's
// webhook server listens on all interfaces and cannot be told otherwise.
//
//	c, err := controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
//	if err != nil { ... }
//	defer c.Stop()
//	k, err := c.Client(ctx, controlplane.User("alice", "developers"), scheme)
//	...
//	c.Kill(controlplane.Kruise)          // or Freeze, Thaw
//	c.Restart(ctx, controlplane.Kruise)  // returns when it is ready again
//
// Tests share one control plane per test binary through package clustertest.
//
// # What a simulated node does
//
// Pods become Running, are restarted in place when an image is changed, become
// Ready as their readiness gates say, and go away when deleted. Probes, logs
// and exec are not simulated. Annotations of a pod set its delays:
//
//	sim.offduty.dev/start-delay    100ms  Pending to Running
//	sim.offduty.dev/stop-delay     50ms   image changed to old container stopped
//	sim.offduty.dev/restart-delay  200ms  old container stopped to new one running
//	sim.offduty.dev/delete-delay   100ms  deletionTimestamp to gone
//
// Image tags say how a container fails:
//
//	broken…      the image cannot be pulled: waiting, ImagePullBackOff
//	crash…       the container exits at once: waiting, CrashLoopBackOff
//	samedigest…  the new tag is the same image: imageID stays as it was
//
// A delay starts anew whenever the pod changes.
package controlplane
