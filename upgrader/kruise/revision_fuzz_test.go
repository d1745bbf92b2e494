package kruise

import (
	"testing"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
)

// FuzzRevision reads what stands in a ControllerRevision, which anybody may have written: what
// cannot be read is no template, and no change to it is possible in place.
func FuzzRevision(f *testing.F) {
	v1 := `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"v1"}]}}}}`
	for _, seed := range []string{v1, `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"v2","env":[{"name":"x"}]}]}}}}`, `{}`, `null`, `[`, ``} {
		f.Add([]byte(seed), []byte(v1))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		from, to := &appsv1.ControllerRevision{}, &appsv1.ControllerRevision{}
		from.Data.Raw, to.Data.Raw = a, b
		_, errFrom := templateOf(from)
		template, errTo := templateOf(to)
		why := NotInPlace(from, to)
		if (errFrom != nil || errTo != nil) && why == "" {
			t.Errorf("%q to %q can be done in place, and cannot be read", a, b)
		}
		set := &kruisev1beta1.StatefulSet{}
		if errTo == nil {
			set.Spec.Template = *template
		}
		if is := IsTemplate(set, to); is != (errTo == nil) {
			t.Errorf("%q is the template that was read from it: %t", b, is)
		}
		Changes(set, from)
	})
}
