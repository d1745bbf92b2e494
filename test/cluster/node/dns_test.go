package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestNamesOfServicesAreAnswered(t *testing.T) {
	n := names{services: fake.NewClientBuilder().WithObjects(
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "arbiter"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.2"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}},
	).Build()}
	type answer struct {
		Code    dnsmessage.RCode
		Address [4]byte
	}
	for _, test := range []struct {
		what, name string
		kind       dnsmessage.Type
		want       answer
	}{
		{"a Service has its address", "arbiter.system.svc.cluster.local.", dnsmessage.TypeA, answer{Address: [4]byte{10, 96, 1, 2}}},
		{"capitals do not matter", "Arbiter.system.svc.cluster.local.", dnsmessage.TypeA, answer{Address: [4]byte{10, 96, 1, 2}}},
		{"a Service has no address of version 6, and exists", "arbiter.system.svc.cluster.local.", dnsmessage.TypeAAAA, answer{}},
		{"an unknown Service does not exist", "nobody.system.svc.cluster.local.", dnsmessage.TypeA, answer{Code: dnsmessage.RCodeNameError}},
		{"one without an address is as if it did not exist", "headless.system.svc.cluster.local.", dnsmessage.TypeA, answer{Code: dnsmessage.RCodeNameError}},
		{"what is tried on the way to a whole name does not exist", "arbiter.system.svc.system.svc.cluster.local.", dnsmessage.TypeA, answer{Code: dnsmessage.RCodeNameError}},
		{"nothing else exists", "example.com.", dnsmessage.TypeA, answer{Code: dnsmessage.RCodeNameError}},
	} {
		question := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(test.name), Type: test.kind, Class: dnsmessage.ClassINET}},
		}
		asked, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		told, err := n.answer(t.Context(), asked)
		if err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(told); err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		got := answer{Code: m.RCode}
		for _, a := range m.Answers {
			got.Address = a.Body.(*dnsmessage.AResource).A
		}
		if diff := cmp.Diff(test.want, got); diff != "" || m.ID != 7 {
			t.Errorf("%s (-want +got):\n%s", test.what, diff)
		}
	}
}
