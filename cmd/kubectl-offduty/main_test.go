package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"offduty.dev/api/v1alpha1"
)

func TestWrongUsage(t *testing.T) {
	for args, want := range map[string]string{
		"status --timeout=1s":            "error: --timeout and --keep-waiting need --watch\n",
		"status --watch":                 "error: --watch needs the name of a plan\n",
		"status a --watch --timeout=-1s": "error: --timeout must not be negative\n",
		"status a -A":                    "error: a plan cannot be named together with --all-namespaces\n",
		"preview a -f b":                 "error: give either the name of a plan or --filename, not both\n",
		"release-pin a b":                "error: --reason is needed: the arbiter records it\n",
		"pause":                          "error: accepts 1 arg(s), received 0\n",
		"nonsense":                       "error: unknown command \"nonsense\" for \"kubectl offduty\"\n",
	} {
		t.Run(args, func(t *testing.T) {
			streams, _, out, problems := genericiooptions.NewTestIOStreams()
			code := run(t.Context(), strings.Fields(args), streams)
			if code != 1 || out.Len() > 0 {
				t.Errorf("exit code %d, and it prints %q", code, out)
			}
			if diff := cmp.Diff(want, problems.String()); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheAnswerMustBeYes(t *testing.T) {
	streams, in, _, _ := genericiooptions.NewTestIOStreams()
	in.WriteString("y\n")
	o := &releasePinOptions{options: &options{streams: streams}}
	if err := o.confirm("really?"); err == nil || !strings.Contains(err.Error(), "really?\nnothing was done: confirm with --yes") {
		t.Errorf("without a terminal it says %v", err)
	}
	if o.yes = true; o.confirm("really?") != nil {
		t.Error("--yes does not confirm")
	}
}

func TestFit(t *testing.T) {
	text := "1\n2\n3\n4\n5\n6\n7\n\nmessage\n"
	for name, c := range map[string]struct {
		width, height int
		want          string
	}{
		"all of it where there is room":                     {80, 24, text},
		"the first lines and the message where there isn't": {80, 8, "1\n2\n3\n4\n… 3 more\n\nmessage\n"},
		"long lines are cut":                                {4, 24, "1\n2\n3\n4\n5\n6\n7\n\nmes…\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := fit(text, c.width, c.height)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if strings.Count(got, "\n") >= c.height {
				t.Error("it would scroll")
			}
		})
	}
}

func TestAPlanInAFile(t *testing.T) {
	for text, want := range map[string]string{
		"kind: UpgradePlan\nmetadata: {name: a}":                                                   "not an UpgradePlan of offduty.dev/v1alpha1",
		"apiVersion: offduty.dev/v1alpha1\nkind: UpgradePlan\nspec: {}":                            "has no name",
		"apiVersion: offduty.dev/v1alpha1\nkind: UpgradePlan\nmetadata: {name: a}\nspec: {bad: 1}": `unknown field "bad"`,
		"apiVersion: offduty.dev/v1alpha1\nkind: UpgradePlan\nmetadata: {name: a}\nspec: {}":       "",
	} {
		path := t.TempDir() + "/plan.yaml"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		up, err := (&previewOptions{file: path}).read()
		switch {
		case want == "" && (err != nil || up.Spec.WorkingLabel != "working"):
			t.Errorf("it is read as %+v: %v", up, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("it says %v, not %q", err, want)
		}
	}
}

func TestItWarnsOfAnotherArbiterThanThePlans(t *testing.T) {
	for _, c := range []struct{ plans, address, want string }{
		{"", "", ""},
		{"offduty-arbiter.sys.svc:9443", "", ""},
		{"offduty-arbiter.sys.svc.cluster.local:9443", "", ""},
		{"own.shop.svc:1", "own.shop.svc:1", ""},
		{"own.shop.svc:1", "", "\nthe plan's arbiter is own.shop.svc:1, but this asks the one in namespace sys: a lease there may be another one"},
		{"own.shop.svc:1", "127.0.0.1:2", "\nthe plan's arbiter is own.shop.svc:1, but this asks 127.0.0.1:2: a lease there may be another one"},
	} {
		o := &releasePinOptions{namespace: "sys", address: c.address}
		up := &v1alpha1.UpgradePlan{Spec: v1alpha1.UpgradePlanSpec{Arbiter: v1alpha1.Arbiter{Address: c.plans}}}
		if got := o.elsewhere(up); got != c.want {
			t.Errorf("plan's %q, --address %q: got %q, want %q", c.plans, c.address, got, c.want)
		}
	}
}

// FuzzReadPlan: a manifest is refused, or read as a plan with a name and with its defaults.
func FuzzReadPlan(f *testing.F) {
	f.Add([]byte("apiVersion: offduty.dev/v1alpha1\nkind: UpgradePlan\nmetadata: {name: a}\nspec: {targets: [{name: web, images: {main: a:1}}]}\n"))
	f.Add([]byte("kind: Roster"))
	f.Fuzz(func(t *testing.T, data []byte) {
		streams, in, _, _ := genericiooptions.NewTestIOStreams()
		in.Write(data)
		o := &previewOptions{options: &options{streams: streams}, file: "-"}
		up, err := o.read()
		if err == nil && (up.Name == "" || up.Spec.Strategy.MaxUnavailable == nil || up.Spec.WorkingLabel == "") {
			t.Errorf("read as %+v", up)
		}
	})
}
