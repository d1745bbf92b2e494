// Package source sees who works where the application decides: in its pods.
//
// What a source says is a roster.Sight; what may be concluded from it is decided there.
package source

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	corev1 "k8s.io/api/core/v1"

	"offduty.dev/arbiter/roster"
)

const (
	// costLimit bounds one evaluation, in cel-go's units: a tenth of what Kubernetes allows an
	// expression of a CustomResourceDefinition, about ten milliseconds.
	costLimit = 100_000
	// maxDepth bounds how deep an expression may be nested.
	maxDepth = 50
)

// Pods is an expression over a pod that says whether it works. It is safe for concurrent use.
type Pods struct {
	program cel.Program
}

// NewPods compiles an expression: true for a pod that works, false for one that is idle.
//
// Error: what is wrong with the expression, and where.
func NewPods(expression string) (*Pods, error) {
	env, err := podEnv()
	if err != nil {
		return nil, fmt.Errorf("make the environment for expressions: %w", err)
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		return nil, errors.New(describe(issues))
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("it is of type %s, and must be bool", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(costLimit), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("prepare the expression: %w", err)
	}
	return &Pods{program: program}, nil
}

// podEnv is CEL as Kubernetes' users know it, with the pod as "object".
func podEnv() (*cel.Env, error) {
	return cel.NewEnv(
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.HomogeneousAggregateLiterals(),
		cel.OptionalTypes(),
		cel.ParserRecursionLimit(maxDepth),
		ext.Strings(ext.StringsVersion(2)),
		ext.NativeTypes(reflect.TypeFor[Object](), ext.ParseStructTag("json")),
		cel.Variable("object", cel.ObjectType("source.Object")),
	)
}

// describe gives the first error with its place, "line 1, column 21: undefined field 'role'".
func describe(issues *cel.Issues) string {
	e := issues.Errors()[0]
	message := strings.Join(strings.Fields(e.Message), " ")
	if n := len(issues.Errors()) - 1; n > 0 {
		message += fmt.Sprintf(" (and %d more)", n)
	}
	if e.Location.Line() < 1 {
		return message
	}
	// Columns are counted from 0.
	return fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), max(e.Location.Column()+1, 1), message)
}

// See says whether a pod works.
func (s *Pods) See(p *corev1.Pod) roster.Sight {
	sight := roster.Sight{Instance: string(p.UID), Duty: roster.Unknown}
	out, _, err := s.program.Eval(map[string]any{"object": objectOf(p)})
	switch {
	case err != nil:
		sight.Why = "its expression fails: " + strings.Join(strings.Fields(err.Error()), " ")
	case out == types.True:
		sight.Duty = roster.Working
	case out == types.False:
		sight.Duty = roster.Idle
	default:
		sight.Why = fmt.Sprintf("its expression gives no bool, but %v", out.Type())
	}
	return sight
}
