package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/arbiter/duty"
	"offduty.dev/upgrader/view"
)

// exit is a test that takes the way out of a state: the function of a package, and the
// subtest or case of it, by its name; "": all of it.
type exit struct{ dir, test, name string }

func e2e(test, name string) exit { return exit{"test/e2e", test, name} }

// exits says for each section of docs/stuck.md who takes its way out; for a section that
// asks for nothing, who sees it pass. On the real control plane where that is possible.
var exits = map[string]exit{
	"Paused":             e2e("TestPauseAndResume", "one that is resumed goes on to its end"),
	"WaitingForDuty":     e2e("TestTheWorkedExample", "when duty is with 0, 1 and 2, replica 4 is upgraded, partition 2"),
	"WaitingForHandover": {"upgrader/session", "TestAHandoverThatDoesNotComeIsAwaitedForATime", ""},
	"HandoverRefused":    e2e("TestEachWaitHasAWayOut", "HandoverRefused as duty is named: others are named"),
	"WaitingForLease":    e2e("TestEachWaitHasAWayOut", "WaitingForLease at the floor: the floor is lowered"),
	"LeaseOutdated":      {"upgrader/session", "TestLeasesThatAreOfNoUseAreAskedForEverMoreSeldom", ""},
	"PinRefused":         {"upgrader/session", "TestAnArbiterThatNeverPinsIsAskedLessAndLess", ""},
	"WaitingForPod":      e2e("TestEachWaitHasAWayOut", "WaitingForPod as a quota allows no more: the quota is lifted"),
	"WaitingForKruise":   e2e("TestCrashMatrix", "Kruise is frozen"),
	"WrongPodChosen":     e2e("TestAForeignPartition", "that comes while replicas are selected does not cost a worker anything, and they are upgraded in the end"),
	"WriteFailed":        e2e("TestEachWaitHasAWayOut", "WriteFailed as a policy refuses the upgrader's writes: the policy goes"),
	"NotObserved":        e2e("TestCrashMatrix", "the upgrader is killed"),

	"ReplicaFailed":              e2e("TestABrokenImage", "a fixed image gets it going again, from the broken replicas on"),
	"ImagePullBackOff":           e2e("TestABrokenImage", "a fixed image gets it going again, from the broken replicas on"),
	"ErrImagePull":               e2e("TestABrokenImage", "a fixed image gets it going again, from the broken replicas on"),
	"InvalidImageName":           e2e("TestThePluginSteers", "and undo mends it"),
	"ErrImageNeverPull":          {"upgrader/plan", "TestAfterRelease", "a failed replica that recovers goes on"},
	"CrashLoopBackOff":           {"test/node", "TestTheWorkedExampleWithRealContainers", "and one that runs mends what crashed"},
	"RunContainerError":          {"test/node", "TestTheWorkedExampleWithRealContainers", "and one that runs mends what crashed"},
	"CreateContainerConfigError": {"upgrader/plan", "TestAfterRelease", "a failed replica that recovers goes on"},
	"CreateContainerError":       {"upgrader/plan", "TestAfterRelease", "a failed replica that recovers goes on"},
	"SameDigest":                 {"test/sim", "TestSeeds", ""}, // users delete such pods there
	"Unschedulable":              e2e("TestAReplicaThatCannotBeSaved", "is left out by its ordinal, and the plan goes on with a good image for the others"),
	"NotReady":                   {"upgrader/plan", "TestAfterRelease", "a failed replica that recovers goes on"},

	"ArbiterUnreachable":   e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"ArbiterDenied":        e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"ArbiterConfigInvalid": e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"ArbiterNotSupported":  {"upgrader/session", "TestAnArbiterThatWasReplacedByOneWithPinsIsAskedOnce", ""},
	"ArbiterFrozen":        e2e("TestAReplicaThatCannotBeSaved", "keeps its pin when the arbiter's record is lost, and the group is frozen no longer than that takes"),
	"GroupNotFound":        e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"HolderRetired":        {"upgrader/plan", "TestLeaving", "also when the arbiter was told before, and does not take the plan up again"},
	"UnknownReplica":       e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),

	"TargetNotFound":     e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"TargetNotSupported": e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"TargetTaken":        e2e("TestTwoPlansForOneSet", "and gets the set when the older one has gone"),
	"ContainerNotFound":  e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"NotInPlace":         e2e("TestATemplateThatCannotBeUpdatedInPlace", "and when that rollout is undone, the plan goes on"),
	"TemplateRefused":    e2e("TestABrokenTargetDoesNotStopTheOthers", "when all is mended, the plan completes"),
	"TemplateContested":  e2e("TestAToolThatRevertsTheImage", "by client-side apply, until it gives up and the plan is paused and resumed"),

	"Refused: NotIdle":         e2e("TestTheWorkedExample", "when duty is with 0, 1 and 2, replica 4 is upgraded, partition 2"),
	"Refused: Floor":           e2e("TestEachWaitHasAWayOut", "WaitingForLease at the floor: the floor is lowered"),
	"Refused: MaxLeased":       {"arbiter/duty", "TestEachRefusalHasAWayOut", "MaxLeased: it is raised"},
	"Refused: LeasedByOther":   {"arbiter/duty", "TestEachRefusalHasAWayOut", "LeasedByOther: the other plan finishes"},
	"Refused: OverduePin":      e2e("TestThePluginSteers", "a failed replica ends the wait at once with exit code 4, and its pin can be released by force"),
	"Refused: FreezeWindow":    {"arbiter/duty", "TestEachRefusalHasAWayOut", "FreezeWindow: it closes"},
	"Refused: Spread":          {"arbiter/duty", "TestEachRefusalHasAWayOut", "Spread: the other domain's is released"},
	"Refused: NoSuccessor":     {"arbiter/duty", "TestWhoIsRefusedASuccessorThatIsNotHeldYetHearsWhenItIs", ""},
	"Refused: DutyIsNamed":     e2e("TestEachWaitHasAWayOut", "HandoverRefused as duty is named: others are named"),
	"Refused: Frozen":          e2e("TestAReplicaThatCannotBeSaved", "keeps its pin when the arbiter's record is lost, and the group is frozen no longer than that takes"),
	"Refused: UnknownReplica":  e2e("TestEachWaitHasAWayOut", "and when the roster's selector is right, the plan goes on"),
	"Refused: HolderRetired":   {"arbiter/duty", "TestEachRefusalHasAWayOut", "HolderRetired: the plan is deleted, and applied anew"},
	"Refused: StaleToken":      {"upgrader/session", "TestAStaleTokenMakesItAdoptAgain", ""},
	"Refused: LeaseLost":       {"arbiter/duty", "TestEachRefusalHasAWayOut", "LeaseLost: the replica is given back, and another lease asked for"},
	"Refused: InstanceChanged": {"arbiter/duty", "TestEachRefusalHasAWayOut", "InstanceChanged: the replica is looked at again"},
	"Refused: HolderHasLeases": {"arbiter/duty", "TestEachRefusalHasAWayOut", "HolderHasLeases: they are released first"},

	"Roster: NotEnoughWorkers": {"arbiter/duty", "TestEachReasonOfARosterHasAWayOut", "NotEnoughWorkers: a pod comes"},
	"Roster: ReplicaLeased":    {"arbiter/duty", "TestEachReasonOfARosterHasAWayOut", "ReplicaLeased: another is named"},
	"Roster: Settling":         {"arbiter/duty", "TestEachReasonOfARosterHasAWayOut", "Settling: who does not attend stops in settleSeconds"},
	"Roster: BestEffort":       {"arbiter/duty", "TestEachReasonOfARosterHasAWayOut", "BestEffort: the workers attend"},
	"Roster: InvalidRule":      e2e("TestTheLimitsOfARoster", "nothing is leased while a window is open"),
	"Roster: InvalidSource":    e2e("TestTheWorkedExampleOfAnObservedRoster", "replicas 1 and 3, which are seen to be idle, are upgraded in place, the others untouched"),
	"Roster: Unsettled":        e2e("TestTheWorkedExampleOfAnObservedRoster", "when the application has moved duty to 0, 1 and 2, replica 4 is upgraded"),
	"Roster: DutyUnknown":      {"arbiter/controller", "TestAPodThatDoesNotShowItsDutyYetIsUnknownUntilItDoes", ""},
	"Roster: CalledToDuty":     e2e("TestTheWorkedExampleOfAnObservedRoster", "a replica that is called to duty between lease and pin is not pinned"),
	"Roster: OverduePin":       {"arbiter/duty", "TestAnOverduePinStopsFurtherGrants", ""},
	"Roster: Frozen":           e2e("TestAReplicaThatCannotBeSaved", "keeps its pin when the arbiter's record is lost, and the group is frozen no longer than that takes"),
}

// standing are the sections that docs/stuck.md must have: each reason with something to
// do, each refusal, each reason of a roster that is not as it should be.
func standing() []string {
	var out []string
	for reason, r := range view.Remedies {
		if r.Do != "" {
			out = append(out, string(reason))
		}
	}
	for r := arbiter.ReasonUnknown + 1; r.String() != arbiter.ReasonUnknown.String(); r++ {
		out = append(out, "Refused: "+r.String())
	}
	for _, r := range []string{
		duty.ReasonFrozen, duty.ReasonOverduePin, duty.ReasonReplicaLeased, duty.ReasonNotEnoughWorkers, duty.ReasonSettling, duty.ReasonBestEffort,
		duty.ReasonInvalidRule, duty.ReasonInvalidSource, duty.ReasonUnsettled, duty.ReasonDutyUnknown, duty.ReasonCalledToDuty,
	} {
		out = append(out, "Roster: "+r)
	}
	slices.Sort(out)
	return out
}

// sections are the texts of a page's sections of the third level. Of several headings in a
// row each has the text below.
func sections(page string) map[string]string {
	out := map[string]string{}
	var open []string
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "### "):
			if len(open) > 0 && strings.TrimSpace(out[open[0]]) != "" {
				open = nil
			}
			open = append(open, strings.ReplaceAll(strings.TrimSpace(line[4:]), "`", ""))
		case strings.HasPrefix(line, "#"):
			open = nil
		default:
			for _, h := range open {
				out[h] += line
			}
		}
	}
	return out
}

func TestEveryStateHasAWayOut(t *testing.T) {
	page := pages(t)["docs/stuck.md"]
	found := sections(page)
	want := standing()
	if len(want) < 50 {
		t.Fatalf("only %d states were found: %v", len(want), want)
	}
	for _, s := range want {
		if _, way, ok := strings.Cut(found[s], "**Way out"); !ok || len(way) < 20 {
			t.Errorf("docs/stuck.md has no section %s with a way out", s)
		}
		if exits[s] == (exit{}) {
			t.Errorf("no test takes the way out of %s", s)
		}
	}
	for _, s := range append(slices.Collect(maps.Keys(found)), slices.Collect(maps.Keys(exits))...) {
		if !slices.Contains(want, s) {
			t.Errorf("nothing can stand at %s", s)
		}
	}
}

func TestEveryReasonIsNamed(t *testing.T) {
	page := pages(t)["docs/stuck.md"]
	for _, r := range reasons(t) {
		if !strings.Contains(page, "`"+r+"`") {
			t.Errorf("docs/stuck.md says nothing of the reason %s", r)
		}
	}
}

func TestEveryWayOutIsTaken(t *testing.T) {
	folders := map[string]map[string]map[string]bool{}
	for state, e := range exits {
		if folders[e.dir] == nil {
			folders[e.dir] = testsIn(t, e.dir)
		}
		names, ok := folders[e.dir][e.test]
		switch {
		case !ok:
			t.Errorf("%s: there is no test %s in %s", state, e.test, e.dir)
		case e.name != "" && !names[e.name]:
			t.Errorf("%s: %s in %s has no case %q", state, e.test, e.dir, e.name)
		}
	}
}

// testsIn returns the strings that stand in each function of a package's tests: the names
// of subtests and cases are among them. A case may stand in a variable beside the tests.
func testsIn(t *testing.T, dir string) map[string]map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", dir, err)
	}
	tests, shared := map[string]map[string]bool{}, map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			into := shared
			if f, ok := d.(*ast.FuncDecl); ok {
				into = map[string]bool{}
				tests[f.Name.Name] = into
			}
			collect(d, into)
		}
	}
	for _, names := range tests {
		maps.Copy(names, shared)
	}
	return tests
}

// collect puts the strings of a declaration into a set.
func collect(d ast.Decl, into map[string]bool) {
	ast.Inspect(d, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				into[s] = true
			}
		}
		return true
	})
}
