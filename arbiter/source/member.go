package source

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

// MemberOf is what an application's source is told of a pod.
//
// Error: why the pod's address must not be asked. Whoever may write a roster, or the status of
// a pod, must not be able to make the arbiter talk to anybody but the pod: the node, this
// machine and the addresses beside it, where clouds keep credentials, are nobody's own.
func MemberOf(p *corev1.Pod, loopback bool) (application.Member, error) {
	m := application.Member{Name: p.Name, Instance: string(p.UID), Ports: map[string]int32{}}
	if p.Status.PodIP == "" {
		return m, fmt.Errorf("it has no address yet")
	}
	ip, err := netip.ParseAddr(p.Status.PodIP)
	if err != nil || ip.Zone() != "" {
		return m, fmt.Errorf("its address %q is none", p.Status.PodIP)
	}
	ip = ip.Unmap()
	switch {
	case ip.IsLoopback() && loopback:
	case ip.IsLoopback(), ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified():
		return m, fmt.Errorf("its address %s is no pod's own", ip)
	case p.Status.PodIP == p.Status.HostIP:
		return m, fmt.Errorf("it has the address of its node, which is not asked")
	}
	m.Address = ip.String()
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			for _, port := range containers[i].Ports {
				m.Ports[port.Name] = port.ContainerPort
			}
		}
	}
	return m, nil
}

// ports keeps of containers their ports that have a name.
func ports(containers []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for i := range containers {
		var named []corev1.ContainerPort
		for _, p := range containers[i].Ports {
			if p.Name != "" {
				named = append(named, corev1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort})
			}
		}
		if named != nil {
			out = append(out, corev1.Container{Ports: named})
		}
	}
	return out
}

// addressOf is where a member is asked.
func addressOf(m application.Member, port intstr.IntOrString) (string, error) {
	ip, err := netip.ParseAddr(m.Address)
	if err != nil {
		return "", fmt.Errorf("it has no address")
	}
	number := port.IntVal
	if port.Type == intstr.String {
		var ok bool
		if number, ok = m.Ports[port.StrVal]; !ok {
			return "", fmt.Errorf("its pod has no port named %q", port.StrVal)
		}
	}
	if number < 1 || number > 65535 {
		return "", fmt.Errorf("%d is no port", number)
	}
	return netip.AddrPortFrom(ip, uint16(number)).String(), nil
}

// slots bounds how many members all rosters of this process ask at a time.
var slots = make(chan struct{}, 64)

// each asks all members at the same time, as far as there are slots.
func each(ctx context.Context, members map[string]application.Member, ask func(context.Context, application.Member) roster.Sight) map[string]roster.Sight {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := make(map[string]roster.Sight, len(members))
	for name, m := range members {
		wg.Go(func() {
			s := roster.Sight{Duty: roster.Unknown, Why: "the arbiter had no time to ask it"}
			select {
			case slots <- struct{}{}:
				s = ask(ctx, m)
				<-slots
			case <-ctx.Done():
			}
			s.Instance = m.Instance
			mu.Lock()
			defer mu.Unlock()
			out[name] = s
		})
	}
	wg.Wait()
	return out
}

// unknown is a sight that says why there is none.
func unknown(format string, args ...any) roster.Sight {
	return roster.Sight{Duty: roster.Unknown, Why: fmt.Sprintf(format, args...)}
}

// lagging says why a member that lags so far can take over no duty; empty: it can. Nil: it did
// not say, or no limit was declared.
func lagging(lag, most *int64) string {
	switch {
	case most == nil:
		return ""
	case lag == nil || *lag < 0:
		return "it does not say how far it lags"
	case *lag > *most:
		return "it lags by more than " + strconv.FormatInt(*most, 10) + " bytes"
	}
	return ""
}
