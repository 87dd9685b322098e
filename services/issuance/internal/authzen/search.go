package authzen

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// kind is one of the three searches: what it asks for and how a result reads.
type kind struct {
	name       string
	read       func(wire) (Evaluation, error)
	candidates func(View, context.Context, Evaluation, string, int) ([]string, error)
	// with is q about candidate id, and the result that stands for it.
	with func(q Evaluation, id string) (Evaluation, any)
}

// The searches of sections 8.4, 8.5 and 8.6. What is searched for is ignored in the
// request but for its type.
var (
	subjects = kind{"subject", func(w wire) (q Evaluation, err error) {
		if q.Subject, err = entity(w.Subject, "subject", false); err != nil {
			return q, err
		}
		if q.Action, err = action(w.Action); err != nil {
			return q, err
		}
		q.Resource, err = entity(w.Resource, "resource", true)
		return q, err
	}, View.Subjects, func(q Evaluation, id string) (Evaluation, any) {
		q.Subject.ID = id
		return q, Entity{Type: q.Subject.Type, ID: id}
	}}
	resources = kind{"resource", func(w wire) (q Evaluation, err error) {
		if q.Subject, err = entity(w.Subject, "subject", true); err != nil {
			return q, err
		}
		if q.Action, err = action(w.Action); err != nil {
			return q, err
		}
		q.Resource, err = entity(w.Resource, "resource", false)
		return q, err
	}, View.Resources, func(q Evaluation, id string) (Evaluation, any) {
		q.Resource.ID = id
		return q, Entity{Type: q.Resource.Type, ID: id}
	}}
	actions = kind{"action", func(w wire) (q Evaluation, err error) {
		if q.Subject, err = entity(w.Subject, "subject", true); err != nil {
			return q, err
		}
		q.Resource, err = entity(w.Resource, "resource", true)
		return q, err
	}, View.Actions, func(q Evaluation, id string) (Evaluation, any) {
		q.Action = Action{Name: id}
		return q, Action{Name: id}
	}}
)

// results is the answer to a search (section 8.2.2).
type results struct {
	Results []any    `json:"results"`
	Page    pageInfo `json:"page"`
}

// pageInfo tells where the results stand among all. Total is how many match over all
// pages, and absent until the search has come near enough to their end to know it.
type pageInfo struct {
	NextToken string `json:"next_token"`
	Count     int    `json:"count"`
	Total     *int   `json:"total,omitempty"`
}

// search serves one of the searches. Every result was permitted by Evaluate, in the
// same view. A page may hold fewer results than asked for, even none, and still have a
// next_token: one request decides about maxWork candidates at most.
func (s *Server) search(k kind) func(context.Context, View, []byte) (any, error) {
	return func(ctx context.Context, v View, body []byte) (any, error) {
		w, err := decode(body)
		if err != nil {
			return nil, err
		}
		q, err := k.read(w)
		if err != nil {
			return nil, err
		}
		if err := object(w.Context, "context", false); err != nil {
			return nil, err
		}
		q.Context = w.Context
		limit, at, bound, err := s.page(ctx, k, w, q)
		if err != nil {
			return nil, err
		}
		out, next, err := find(ctx, v, k, q, limit, at)
		if err != nil {
			return nil, fmt.Errorf("search %s: %w", k.name, err)
		}
		if next != nil {
			if out.Page.NextToken, err = s.seal(*next, bound); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// page reads where to go on and how many results to give; bound is what a token of this
// search is bound to.
func (s *Server) page(ctx context.Context, k kind, w wire, q Evaluation) (limit int, at cursor, bound []byte, err error) {
	if bound, err = binding(ctx, k, q); err != nil {
		return 0, at, nil, err
	}
	if err := object(w.Page, "page", false); err != nil || len(w.Page) == 0 {
		return DefaultPage, at, bound, err
	}
	var p struct {
		Token      *string        `json:"token"`
		Limit      *uint32        `json:"limit"`
		Properties jsontext.Value `json:"properties"`
	}
	if err := into(w.Page, "page", &p); err != nil {
		return 0, at, nil, err
	}
	if err := object(p.Properties, "page.properties", false); err != nil {
		return 0, at, nil, err
	}
	limit = DefaultPage
	if p.Limit != nil {
		limit = int(min(*p.Limit, MaxPage))
	}
	if p.Token != nil && *p.Token != "" {
		if at, err = s.open(*p.Token, bound); err != nil {
			return 0, at, nil, err
		}
	}
	return limit, at, bound, nil
}

// find decides about the candidates above at until it has limit results; next is where
// the following page starts, nil at the end.
func find(ctx context.Context, v View, k kind, q Evaluation, limit int, at cursor) (results, *cursor, error) {
	out := results{Results: []any{}}
	ids, err := k.candidates(v, ctx, q, at.After, maxWork+1)
	if err != nil {
		return out, nil, err
	}
	rest := len(ids) <= maxWork // all that is left can be decided now, so the total is known
	ids = ids[:min(len(ids), maxWork)]
	permitted, last := 0, at.After
	for _, id := range ids {
		if !rest && permitted == limit {
			break
		}
		if err := ctx.Err(); err != nil {
			return out, nil, err
		}
		about, result := k.with(q, id)
		d, err := v.Evaluate(ctx, about)
		if err != nil {
			return out, nil, err
		}
		if d.Decision {
			permitted++
		}
		if permitted <= limit {
			last = id
			if d.Decision {
				out.Results = append(out.Results, result)
			}
		}
	}
	out.Page.Count = len(out.Results)
	if rest {
		total := at.Seen + permitted
		out.Page.Total = &total
		if permitted == out.Page.Count {
			return out, nil, nil
		}
	}
	return out, &cursor{After: last, Seen: at.Seen + out.Page.Count}, nil
}
