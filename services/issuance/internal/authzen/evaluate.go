package authzen

import (
	"context"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"
)

// The semantics of a batch (section 7.1.2.1).
const (
	ExecuteAll          = "execute_all"
	DenyOnFirstDeny     = "deny_on_first_deny"
	PermitOnFirstPermit = "permit_on_first_permit"
)

// evaluation answers one question (section 6).
func (s *Server) evaluation(ctx context.Context, v View, body []byte) (any, error) {
	w, err := decode(body)
	if err != nil {
		return nil, err
	}
	return one(ctx, v, w)
}

func one(ctx context.Context, v View, w wire) (any, error) {
	q, err := w.evaluation()
	if err != nil {
		return nil, err
	}
	d, err := v.Evaluate(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	return d, nil
}

// evaluations answers a batch in the order of its questions (section 7), or one
// question when there is no batch. A question that cannot be read or decided is denied
// with the reason in context.error; the others are answered.
func (s *Server) evaluations(ctx context.Context, v View, body []byte) (any, error) {
	w, err := decode(body)
	if err != nil {
		return nil, err
	}
	semantic, err := w.semantic()
	if err != nil {
		return nil, err
	}
	items, err := w.items()
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return one(ctx, v, w)
	}
	if err := w.defaults(); err != nil {
		return nil, err
	}
	out := make([]Decision, 0, len(items))
	for _, b := range items {
		d := s.answer(ctx, v, w, b)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("evaluate: %w", err)
		}
		out = append(out, d)
		if semantic == DenyOnFirstDeny && !d.Decision || semantic == PermitOnFirstPermit && d.Decision {
			break
		}
	}
	return map[string]any{"evaluations": out}, nil
}

func (s *Server) answer(ctx context.Context, v View, w wire, b jsontext.Value) Decision {
	q, err := w.item(b)
	if err != nil {
		return failed(http.StatusBadRequest, err.Error())
	}
	d, err := v.Evaluate(ctx, q)
	if err != nil {
		s.Log.Error("no decision possible", zap.Error(err))
		return failed(http.StatusServiceUnavailable, "no decision is possible now; ask again in a few seconds")
	}
	return d
}

// failed is the denial of a question that has no answer (section 7.2.1).
func failed(status int, message string) Decision {
	return Decision{Context: map[string]any{"error": map[string]any{"status": status, "message": message}}}
}

func (w wire) semantic() (string, error) {
	if err := object(w.Options, "options", false); err != nil || len(w.Options) == 0 {
		return ExecuteAll, err
	}
	var o struct {
		Semantic jsontext.Value `json:"evaluations_semantic"`
	}
	if err := into(w.Options, "options", &o); err != nil {
		return "", err
	}
	if len(o.Semantic) == 0 {
		return ExecuteAll, nil
	}
	var text *string
	if err := into(o.Semantic, "options.evaluations_semantic", &text); err != nil {
		return "", err
	}
	if text != nil {
		switch *text {
		case ExecuteAll, DenyOnFirstDeny, PermitOnFirstPermit:
			return *text, nil
		}
	}
	return "", bad("options.evaluations_semantic must be %s, %s or %s", ExecuteAll, DenyOnFirstDeny, PermitOnFirstPermit)
}

func (w wire) items() ([]jsontext.Value, error) {
	if len(w.Evaluations) == 0 {
		return nil, nil
	}
	if w.Evaluations.Kind() != '[' {
		return nil, bad("evaluations must be an array")
	}
	var items []jsontext.Value
	if err := into(w.Evaluations, "evaluations", &items); err != nil {
		return nil, err
	}
	if len(items) > MaxEvaluations {
		return nil, bad("evaluations must hold at most %d questions", MaxEvaluations)
	}
	return items, nil
}
