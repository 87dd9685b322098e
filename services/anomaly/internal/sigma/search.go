package sigma

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/rules"
)

// cloudtrail translates CloudTrail's names into CEL over the neutral event. It is a
// read-only table.
var cloudtrail = map[string]string{
	"eventName":                `action.substring(action.indexOf(":") + 1)`,
	"eventSource":              `(action.indexOf(":") > 0 ? action.substring(0, action.indexOf(":")) : "") + ".amazonaws.com"`,
	"errorCode":                `error`,
	"sourceIPAddress":          `(source_ip != "" ? source_ip : source_service)`,
	"userAgent":                `user_agent`,
	"userIdentity.arn":         `identity`,
	"userIdentity.userName":    `identity.substring(identity.lastIndexOf("/") + 1)`,
	"userIdentity.accessKeyId": `credential`,
	"userIdentity.accountId":   `identity_tenant`,
	"recipientAccountId":       `resource_tenant`,
	"resources.ARN":            `resource`,
	"awsRegion":                `destination.substring(destination.indexOf("@") + 1)`,
	"vpcEndpointId":            `vpce`,
}

// grouped translates CloudTrail's names into fields that can be grouped by. It is a
// read-only table.
var grouped = map[string]string{
	"eventName": "action", "eventSource": "destination", "errorCode": "error", "sourceIPAddress": "source_ip", "userAgent": "user_agent",
	"userIdentity.arn": "identity", "userIdentity.userName": "identity", "userIdentity.accessKeyId": "credential",
	"recipientAccountId": "resource_tenant", "resources.ARN": "resource", "vpcEndpointId": "vpce",
}

func known() map[string]string {
	out := map[string]string{}
	for _, f := range rules.Fields() {
		out[f.Name] = f.Type
	}
	return out
}

// groupField is the neutral event's field that a name stands for.
func groupField(name string) (string, error) {
	if f := grouped[name]; f != "" {
		return f, nil
	}
	if known()[name] != "" {
		return name, nil
	}
	return "", fmt.Errorf("field %q cannot be grouped or counted by: the neutral event has nothing like it", clip(name))
}

// parser turns one detection into CEL.
type parser struct {
	fields     map[string]string
	cloudtrail bool
	searches   map[string]string
	names      []string
	line       int // of what is wrong
}

// search is one search identifier: a map (all of it) or a list of maps (any of them).
func (p *parser) search(n *yaml.Node, depth int) (string, error) {
	p.line = n.Line
	if depth > 4 {
		return "", errors.New("nested too deep")
	}
	var each []string
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			text, err := p.item(n.Content[i].Value, n.Content[i+1])
			if err != nil {
				p.line = n.Content[i].Line
				return "", err
			}
			each = append(each, text)
		}
		return join(each, " && ")
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if c.Kind != yaml.MappingNode {
				return "", errors.New("keywords without a field are not supported: the neutral event has no free text")
			}
			text, err := p.search(c, depth+1)
			if err != nil {
				return "", err
			}
			each = append(each, text)
		}
		return join(each, " || ")
	}
	return "", errors.New("want a map of fields, or a list of such maps")
}

func join(each []string, with string) (string, error) {
	if len(each) == 0 {
		return "", errors.New("it is empty")
	}
	return "(" + strings.Join(each, with) + ")", nil
}

// item is one "field|modifier|...: value or values".
func (p *parser) item(key string, n *yaml.Node) (string, error) {
	parts := strings.Split(key, "|")
	field, kind, err := p.field(parts[0])
	if err != nil {
		return "", err
	}
	m := modifiers(parts[1:])
	if bad := m.unknown(); bad != "" {
		return "", fmt.Errorf("modifier %q is not supported: want contains, startswith, endswith, re, cidr, gt, gte, lt, lte, all, exists, cased or neq", clip(bad))
	}
	values := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		values = n.Content
	}
	var each []string
	for _, v := range values {
		if v.Kind != yaml.ScalarNode {
			return "", fmt.Errorf("%s: want a value or a list of values", clip(parts[0]))
		}
		text, err := p.value(field, kind, m, v)
		if err != nil {
			return "", fmt.Errorf("%s: %w", clip(parts[0]), err)
		}
		each = append(each, text)
	}
	with := " || "
	if m.has("all") {
		with = " && "
	}
	text, err := join(each, with)
	if m.has("neq") {
		text = "!" + text
	}
	return text, err
}

// field is the CEL for a name, with its type.
func (p *parser) field(name string) (text, kind string, err error) {
	if p.cloudtrail {
		if text := cloudtrail[name]; text != "" {
			return text, "string", nil
		}
	}
	if kind := p.fields[name]; kind != "" && kind != "timestamp" {
		return name, kind, nil
	}
	return "", "", fmt.Errorf("field %q has no counterpart in the neutral event", clip(name))
}

type modifiers []string

func (m modifiers) has(name string) bool { return slices.Contains(m, name) }

func (m modifiers) unknown() string {
	for _, x := range m {
		switch x {
		case "contains", "startswith", "endswith", "re", "cidr", "gt", "gte", "lt", "lte", "all", "exists", "cased", "neq":
		case "i", "m", "s":
			if !m.has("re") {
				return x
			}
		default:
			return x
		}
	}
	return ""
}

// value compares a field with one value.
func (p *parser) value(field, kind string, m modifiers, v *yaml.Node) (string, error) {
	if m.has("exists") {
		there := map[string]string{"string": field + ` != ""`, "int": field + " != 0", "bool": field, "list(string)": field + ".size() > 0"}[kind]
		if v.Value == "false" {
			return "!(" + there + ")", nil
		}
		return "(" + there + ")", nil
	}
	for sigma, cel := range map[string]string{"gt": ">", "gte": ">=", "lt": "<", "lte": "<="} {
		if m.has(sigma) {
			n, err := strconv.ParseInt(v.Value, 10, 64)
			if err != nil || kind != "int" {
				return "", fmt.Errorf("%s needs a field of whole numbers and a whole number", sigma)
			}
			return fmt.Sprintf("%s %s %d", field, cel, n), nil
		}
	}
	switch kind {
	case "int":
		n, err := strconv.ParseInt(v.Value, 10, 64)
		if err != nil {
			return "", fmt.Errorf("%q is no whole number", clip(v.Value))
		}
		return fmt.Sprintf("%s == %d", field, n), nil
	case "bool":
		if v.Value != "true" && v.Value != "false" {
			return "", fmt.Errorf("%q is neither true nor false", clip(v.Value))
		}
		return field + " == " + v.Value, nil
	case "list(string)":
		if v.Tag == "!!null" {
			return field + ".size() == 0", nil
		}
		text, err := compare("x", m, v)
		return field + ".exists(x, " + text + ")", err
	}
	return compare(field, m, v)
}

// compare is one string comparison: letters alike unless cased, with * and ? as wildcards.
func compare(field string, m modifiers, v *yaml.Node) (string, error) {
	switch {
	case v.Tag == "!!null":
		return field + ` == ""`, nil
	case m.has("cidr"):
		if _, err := netip.ParsePrefix(v.Value); err != nil {
			return "", fmt.Errorf("%q is no network such as 10.0.0.0/8", clip(v.Value))
		}
		return "in_cidr(" + field + ", " + strconv.QuoteToASCII(v.Value) + ")", nil
	case m.has("re"):
		flags := ""
		for _, f := range []string{"i", "m", "s"} {
			if m.has(f) {
				flags += f
			}
		}
		text := v.Value
		if flags != "" {
			text = "(?" + flags + ")" + text
		}
		if _, err := regexp.Compile(text); err != nil {
			return "", fmt.Errorf("the expression is none of RE2's: %w", err)
		}
		return matches(field, text), nil
	}
	pattern, plain, wild := wildcards(v.Value)
	if !wild && !m.has("contains") && !m.has("startswith") && !m.has("endswith") && !m.has("cased") && ascii(plain) {
		return field + ".lowerAscii() == " + strconv.QuoteToASCII(strings.ToLower(plain)), nil
	}
	flags := "(?is)"
	if m.has("cased") {
		flags = "(?s)"
	}
	before, after := "^", "$"
	if m.has("contains") || m.has("endswith") {
		before = ""
	}
	if m.has("contains") || m.has("startswith") {
		after = ""
	}
	return matches(field, flags+before+pattern+after), nil
}

func matches(field, pattern string) string {
	return field + ".matches(" + strconv.QuoteToASCII(pattern) + ")"
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 0x7e }) < 0
}

// wildcards turns a value into a pattern: * is any text, ? any character, and a backslash
// before *, ? or a backslash makes it plain.
func wildcards(s string) (pattern, plain string, wild bool) {
	var b, raw strings.Builder
	runes := []rune(s)
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		switch {
		case r == '\\' && i+1 < len(runes) && strings.ContainsRune(`*?\`, runes[i+1]):
			i++
			b.WriteString(regexp.QuoteMeta(string(runes[i])))
			raw.WriteRune(runes[i])
		case r == '*':
			b.WriteString(".*")
			wild = true
		case r == '?':
			b.WriteString(".")
			wild = true
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
			raw.WriteRune(r)
		}
	}
	return b.String(), raw.String(), wild
}

// condition parses Sigma's condition: or binds least, then and, then not.
func (p *parser) condition(text string) (string, error) {
	if strings.Contains(text, "|") {
		return "", errors.New("aggregations after | belong to Sigma 1: use a correlation")
	}
	c := &tokens{p: p, list: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))}
	out, err := c.or(0)
	if err == nil && len(c.list) > 0 {
		err = fmt.Errorf("%q is left over", clip(c.list[0]))
	}
	return out, err
}

type tokens struct {
	p    *parser
	list []string
}

// take removes the next token when it is word, in any case.
func (c *tokens) take(word string) bool {
	if len(c.list) > 0 && strings.EqualFold(c.list[0], word) {
		c.list = c.list[1:]
		return true
	}
	return false
}

func (c *tokens) or(depth int) (string, error) { return c.chain("or", " || ", depth, c.and) }

func (c *tokens) and(depth int) (string, error) { return c.chain("and", " && ", depth, c.not) }

func (c *tokens) chain(word, with string, depth int, next func(int) (string, error)) (string, error) {
	var each []string
	for {
		x, err := next(depth)
		if err != nil {
			return "", err
		}
		if each = append(each, x); !c.take(word) {
			return join(each, with)
		}
	}
}

func (c *tokens) not(depth int) (string, error) {
	if depth > maxDepth {
		return "", errors.New("nested too deep")
	}
	switch {
	case c.take("not"):
		x, err := c.not(depth + 1)
		return "!" + x, err
	case c.take("("):
		x, err := c.or(depth + 1)
		if err == nil && !c.take(")") {
			err = errors.New("a parenthesis is not closed")
		}
		return x, err
	case len(c.list) == 0:
		return "", errors.New("it ends too early")
	}
	word := c.list[0]
	c.list = c.list[1:]
	if len(c.list) >= 2 && (word == "1" || strings.EqualFold(word, "any") || strings.EqualFold(word, "all")) && c.take("of") {
		pattern := c.list[0]
		c.list = c.list[1:]
		return c.of(pattern, strings.EqualFold(word, "all"))
	}
	x, ok := c.p.searches[word]
	if !ok {
		return "", fmt.Errorf("there is no search %q", clip(word))
	}
	return x, nil
}

// of joins the searches that a pattern names; "them" is all whose name does not begin
// with an underscore.
func (c *tokens) of(pattern string, all bool) (string, error) {
	var each []string
	for _, name := range c.p.names {
		ok, err := path.Match(pattern, name)
		if pattern == "them" {
			ok, err = !strings.HasPrefix(name, "_"), nil
		}
		if err != nil {
			return "", fmt.Errorf("pattern %q: %w", clip(pattern), err)
		}
		if ok {
			each = append(each, c.p.searches[name])
		}
	}
	if len(each) == 0 {
		return "", fmt.Errorf("no search is called %q", clip(pattern))
	}
	if all {
		return join(each, " && ")
	}
	return join(each, " || ")
}
