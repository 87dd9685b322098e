package authzen

import (
	"errors"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// wire is a request before its members are judged. Unknown members are ignored
// (section 4), doubled ones are errors, in nested objects too.
type wire struct {
	Subject     jsontext.Value `json:"subject"`
	Action      jsontext.Value `json:"action"`
	Resource    jsontext.Value `json:"resource"`
	Context     jsontext.Value `json:"context"`
	Evaluations jsontext.Value `json:"evaluations"`
	Options     jsontext.Value `json:"options"`
	Page        jsontext.Value `json:"page"`
}

func decode(b []byte) (wire, error) {
	var w wire
	if jsontext.Value(b).Kind() != '{' {
		return w, bad("the body must be a JSON object")
	}
	return w, into(b, "the body", &w)
}

// into decodes b strictly; what names b for the sender.
func into(b []byte, what string, v any) error {
	err := json.Unmarshal(b, v)
	if err == nil {
		return nil
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return bad("%s has a member twice", what)
	}
	if e, ok := errors.AsType[*json.SemanticError](err); ok && e.JSONPointer != "" {
		return bad("%s: %s has the wrong type", what, clip(string(e.JSONPointer)))
	}
	return bad("%s is not what it should be, or not JSON", what)
}

func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// entity reads a subject or resource. Without needID an id is ignored, whatever it is
// (sections 8.4.1 and 8.5.1).
func entity(b jsontext.Value, what string, needID bool) (Entity, error) {
	if err := object(b, what, true); err != nil {
		return Entity{}, err
	}
	var v struct {
		Type       *string        `json:"type"`
		ID         jsontext.Value `json:"id"`
		Properties jsontext.Value `json:"properties"`
	}
	if err := into(b, what, &v); err != nil {
		return Entity{}, err
	}
	e := Entity{Properties: v.Properties}
	var err error
	if e.Type, err = name(v.Type, what+".type"); err != nil {
		return e, err
	}
	if needID {
		var id *string
		if len(v.ID) > 0 {
			if err := into(v.ID, what+".id", &id); err != nil {
				return e, err
			}
		}
		if e.ID, err = name(id, what+".id"); err != nil {
			return e, err
		}
	}
	return e, object(v.Properties, what+".properties", false)
}

func action(b jsontext.Value) (Action, error) {
	if err := object(b, "action", true); err != nil {
		return Action{}, err
	}
	var v struct {
		Name       *string        `json:"name"`
		Properties jsontext.Value `json:"properties"`
	}
	if err := into(b, "action", &v); err != nil {
		return Action{}, err
	}
	n, err := name(v.Name, "action.name")
	if err != nil {
		return Action{}, err
	}
	return Action{n, v.Properties}, object(v.Properties, "action.properties", false)
}

func name(s *string, what string) (string, error) {
	switch {
	case s == nil:
		return "", bad("%s is missing: give a string", what)
	case len(*s) > MaxName:
		return "", bad("%s must be at most %d bytes", what, MaxName)
	}
	return *s, nil
}

// object checks that b is a JSON object, or absent where that is allowed.
func object(b jsontext.Value, what string, required bool) error {
	switch {
	case len(b) == 0 && !required, len(b) > 0 && b.Kind() == '{':
		return nil
	case len(b) == 0:
		return bad("%s is missing: give an object", what)
	}
	return bad("%s must be an object", what)
}

// evaluation judges the four members of a single question (section 6.1).
func (w wire) evaluation() (e Evaluation, err error) {
	if e.Subject, err = entity(w.Subject, "subject", true); err != nil {
		return e, err
	}
	if e.Action, err = action(w.Action); err != nil {
		return e, err
	}
	if e.Resource, err = entity(w.Resource, "resource", true); err != nil {
		return e, err
	}
	e.Context = w.Context
	return e, object(w.Context, "context", false)
}

// defaults judges the members that a batch gives for all its questions.
func (w wire) defaults() error {
	if len(w.Subject) > 0 {
		if _, err := entity(w.Subject, "subject", true); err != nil {
			return err
		}
	}
	if len(w.Action) > 0 {
		if _, err := action(w.Action); err != nil {
			return err
		}
	}
	if len(w.Resource) > 0 {
		if _, err := entity(w.Resource, "resource", true); err != nil {
			return err
		}
	}
	return object(w.Context, "context", false)
}

// item is one question of a batch: its own members, else the defaults in w (section
// 7.1.1). A member replaces the whole default.
func (w wire) item(b jsontext.Value) (Evaluation, error) {
	if b.Kind() != '{' {
		return Evaluation{}, bad("an evaluation must be an object")
	}
	q, err := decode(b)
	if err != nil {
		return Evaluation{}, err
	}
	for _, m := range []struct{ own, def *jsontext.Value }{
		{&q.Subject, &w.Subject}, {&q.Action, &w.Action}, {&q.Resource, &w.Resource}, {&q.Context, &w.Context},
	} {
		if len(*m.own) == 0 {
			*m.own = *m.def
		}
	}
	return q.evaluation()
}
