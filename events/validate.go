package events

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"sync"

	"github.com/cloudevents/sdk-go/v2/event"
	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/schemas"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Validate checks the data of e against the JSON Schema of its type and its
// envelope against Lanyard's rules (tenant, partition key, subject = the payload's
// entity). It is what the edge runs on everything that comes from outside.
func Validate(e Event) error {
	if err := validate(e); err != nil {
		return fmt.Errorf("validate event: %w", err)
	}
	return nil
}

func validate(e Event) error {
	ec, ok := e.Context.(*event.EventContextV1)
	if !ok {
		return fmt.Errorf("%w: specversion is not 1.0", ErrEnvelope)
	}
	if err := checkContext(ec); err != nil {
		return err
	}
	if err := checkLanyard(ec); err != nil {
		return err
	}
	p, err := validateData(ec.Type, e.DataEncoded)
	if err != nil {
		return err
	}
	return checkEntity(ec, p.Entity())
}

// checkEntity checks the attributes that follow from the type and the data.
func checkEntity(ec *event.EventContextV1, entity string) error {
	if ec.DataSchema != nil && ec.DataSchema.String() != SchemaID(ec.Type) {
		return fmt.Errorf("%w: dataschema of %s is %s", ErrEnvelope, ec.Type, SchemaID(ec.Type))
	}
	if *ec.Subject != entity {
		return fmt.Errorf("%w: subject is not the entity of the data, %q", ErrEnvelope, clip(entity))
	}
	if key, ok := ec.Extensions[ExtPartitionKey]; !ok || key != entity {
		return fmt.Errorf("%w: partitionkey is not the entity of the data, %q", ErrEnvelope, clip(entity))
	}
	for _, name := range []string{ExtCorrelation, ExtCausation, ExtTraceparent} {
		if v, ok := ec.Extensions[name]; ok {
			if _, ok := v.(string); !ok {
				return fmt.Errorf("%w: %s is not a string", ErrEnvelope, name)
			}
		}
	}
	return nil
}

// reservedSource begins the source of events that Lanyard's own services state.
const reservedSource = "/lanyard/"

// Receive reads one event that a producer outside Lanyard sent in structured JSON
// form, as strictly as Decode and Validate together, on behalf of the
// authenticated tenant. What a producer may leave out is filled in: tenant,
// subject, partitionkey (the payload's entity), correlationid (the id), dataschema
// and datacontenttype. It refuses an event that names another tenant
// (ErrWrongTenant) or a source of Lanyard's own.
func Receive(b []byte, tenant string) (Event, error) {
	e, err := receive(b, tenant)
	if err != nil {
		return Event{}, fmt.Errorf("receive event: %w", err)
	}
	return e, nil
}

func receive(b []byte, tenant string) (Event, error) {
	e, err := decode(b)
	if err != nil {
		return Event{}, err
	}
	if !ValidTenant(tenant) {
		return Event{}, fmt.Errorf("%w: %q", ErrBadTenant, clip(tenant))
	}
	ec := e.Context.(*event.EventContextV1)
	switch named, ok := ec.Extensions[ExtTenant]; {
	case !ok:
		ec.Extensions[ExtTenant] = tenant
	case named != tenant:
		return Event{}, fmt.Errorf("%w: %q", ErrWrongTenant, clip(fmt.Sprint(named)))
	}
	if strings.HasPrefix(ec.Source.String(), reservedSource) {
		return Event{}, fmt.Errorf("%w: sources that begin with %s are reserved", ErrEnvelope, reservedSource)
	}
	p, err := validateData(ec.Type, e.DataEncoded)
	if err != nil {
		return Event{}, err
	}
	entity := p.Entity()
	if ec.Subject == nil {
		ec.Subject = &entity
	}
	if _, ok := ec.Extensions[ExtPartitionKey]; !ok {
		ec.Extensions[ExtPartitionKey] = entity
	}
	if _, ok := ec.Extensions[ExtCorrelation]; !ok {
		ec.Extensions[ExtCorrelation] = ec.ID
	}
	if ec.DataSchema == nil {
		e.SetDataSchema(SchemaID(ec.Type))
	}
	if ec.DataContentType == nil {
		e.SetDataContentType(event.ApplicationJSON)
	}
	if err := checkContext(ec); err != nil {
		return Event{}, err
	}
	if err := checkLanyard(ec); err != nil {
		return Event{}, err
	}
	return e, checkEntity(ec, entity)
}

// validateData checks data against the schema of an event type and reads it.
func validateData(eventType string, data []byte) (Payload, error) {
	info, ok := byType[eventType]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknownType, clip(eventType))
	}
	compiled, err := compiledSchemas()
	if err != nil {
		return nil, err
	}
	p := info.New()
	// Reading first refuses duplicate members, which the generic reader below would not see.
	if err := json.Unmarshal(data, p, json.RejectUnknownMembers(true)); err != nil {
		if named := syntaxError(err); errors.Is(named, ErrDuplicateMember) {
			return nil, named
		}
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := compiled[eventType].Validate(doc); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrSchema, explain(err))
	}
	return p, nil
}

// explain says in one line where and how data violates its schema.
func explain(err error) string {
	var ve *jsonschema.ValidationError
	if !errors.As(err, &ve) {
		return clip(err.Error())
	}
	for len(ve.Causes) > 0 {
		ve = ve.Causes[0]
	}
	text := ve.BasicOutput().Error.String()
	if len(text) > 256 {
		text = text[:256] + "..."
	}
	return "/" + clip(strings.Join(ve.InstanceLocation, "/")) + ": " + text
}

func checkIPv4(v any) error {
	s, ok := v.(string)
	if !ok {
		return nil
	}
	if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
		return fmt.Errorf("%q is not an IPv4 address", clip(s))
	}
	return nil
}

// compiledSchemas compiles the embedded schemas once, by event type.
var compiledSchemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	// The library's own check of ipv4 takes signs, such as in "+1.2.3.4".
	c.RegisterFormat(&jsonschema.Format{Name: "ipv4", Validate: checkIPv4})
	names, err := fs.Glob(schemas.FS, "*.v1.json")
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	for _, name := range names {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read schema %s: %w", name, err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("parse schema %s: %w", name, err)
		}
		if err := c.AddResource(schemaBase+name, doc); err != nil {
			return nil, fmt.Errorf("add schema %s: %w", name, err)
		}
	}
	m := make(map[string]*jsonschema.Schema, len(Catalogue))
	for _, t := range Catalogue {
		s, err := c.Compile(SchemaID(t.Type))
		if err != nil {
			return nil, fmt.Errorf("compile schema of %s: %w", t.Type, err)
		}
		m[t.Type] = s
	}
	return m, nil
})
