package node

import (
	"context"
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const domain = "cluster.local"

// names answers what pods ask for the names of Services, as CoreDNS would:
// <service>.<namespace>.svc.cluster.local has the address of its Service, IPv4 alone.
type names struct {
	services client.Reader
	conn     net.PacketConn
}

// serve answers until conn is closed.
func (n names) serve(ctx context.Context) {
	buffer := make([]byte, 512)
	for {
		size, from, err := n.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if answer, err := n.answer(ctx, buffer[:size]); err == nil {
			// Who is not reached asks again.
			_, _ = n.conn.WriteTo(answer, from)
		}
	}
}

func (n names) answer(ctx context.Context, question []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(question)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired},
		Questions: []dnsmessage.Question{q},
	}
	address := n.lookup(ctx, q.Name.String())
	switch {
	case address == nil:
		reply.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		reply.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5},
			Body:   &dnsmessage.AResource{A: [4]byte(address)},
		}}
	}
	return reply.Pack()
}

// lookup returns the IPv4 address of the Service with that name, nil if there is none.
func (n names) lookup(ctx context.Context, name string) net.IP {
	short, ours := strings.CutSuffix(strings.ToLower(name), ".svc."+domain+".")
	service, namespace, whole := strings.Cut(short, ".")
	if !ours || !whole {
		return nil
	}
	var s corev1.Service
	if err := n.services.Get(ctx, client.ObjectKey{Namespace: namespace, Name: service}, &s); err != nil {
		return nil
	}
	return net.ParseIP(s.Spec.ClusterIP).To4()
}
