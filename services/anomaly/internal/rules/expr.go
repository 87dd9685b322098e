package rules

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// Limits of one expression.
const (
	maxExpression = 8 << 10 // bytes
	maxCost       = 50_000  // of CEL's units per evaluation, about 5 ms
)

// Compiler makes expressions. It is safe for concurrent use.
type Compiler struct {
	env   *cel.Env
	table *table
}

// NewCompiler prepares the environment that rules are written in: the members of the
// neutral event as variables, CEL's standard library and string functions, and
// in_cidr(address, "10.0.0.0/8").
func NewCompiler() (*Compiler, error) {
	t := newTable()
	opts := []cel.EnvOption{
		ext.Strings(), cel.CrossTypeNumericComparisons(true), cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(64),
		cel.Function("in_cidr", cel.Overload("in_cidr_string_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(inCIDR))),
	}
	for _, f := range Fields() {
		opts = append(opts, cel.Variable(f.Name, celType(f.Type)))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("make rule environment: %w", err)
	}
	return &Compiler{env: env, table: t}, nil
}

// inCIDR reports whether an address is in a network. What is no address is in none; what
// is no network is an error of the rule.
func inCIDR(address, network ref.Val) ref.Val {
	n, err := netip.ParsePrefix(string(network.(types.String)))
	if err != nil {
		return types.NewErr("in_cidr: %q is no network such as 10.0.0.0/8", string(network.(types.String)))
	}
	a, err := netip.ParseAddr(string(address.(types.String)))
	return types.Bool(err == nil && n.Contains(a.Unmap()))
}

// position is where in an expression something is wrong; the first line and column are 1.
type position struct {
	Line, Column int
	Message      string
}

// expression is one compiled condition.
type expression struct {
	text   string
	run    cel.Program
	table  *table
	errors atomic.Int64
	last   atomic.Pointer[string]
}

// compile checks and compiles a condition.
func (c *Compiler) compile(text string) (*expression, []position) {
	if strings.TrimSpace(text) == "" {
		return nil, []position{{1, 1, "the condition is empty"}}
	}
	ast, issues := c.env.Compile(text)
	if issues.Err() != nil {
		var out []position
		for _, e := range issues.Errors() {
			out = append(out, position{e.Location.Line(), e.Location.Column() + 1, plain(e.Message)})
		}
		return nil, out
	}
	if ast.OutputType() != cel.BoolType {
		return nil, []position{{1, 1, "the condition is of type " + ast.OutputType().String() + ", want bool"}}
	}
	run, err := c.env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, []position{{1, 1, err.Error()}}
	}
	return &expression{text: text, run: run, table: c.table}, nil
}

// plain writes CEL's message about an unknown name for people who know fields.
func plain(message string) string {
	message = strings.TrimSuffix(message, " (in container '')")
	name, ok := strings.CutPrefix(message, "undeclared reference to '")
	if !ok {
		return message
	}
	name, rest, _ := strings.Cut(name, "'")
	return "there is no field " + name + rest
}

// holds evaluates the condition. One that fails does not hold, and is counted.
func (x *expression) holds(e *Event) bool {
	v, _, err := x.run.Eval(activation{x.table, e})
	if err != nil {
		x.errors.Add(1)
		text := err.Error()
		x.last.Store(&text)
		return false
	}
	b, ok := v.(types.Bool)
	return ok && bool(b)
}
