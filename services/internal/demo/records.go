package demo

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// ingest posts every file of records to intake as it is: raw CloudTrail, gzip or not.
func (r *run) ingest(ctx context.Context) error {
	r.rep.Step("Real input: raw CloudTrail records of real attack techniques, posted to intake over HTTP")
	var names []string
	err := fs.WalkDir(r.o.Records, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && (strings.HasSuffix(p, ".json.gz") || strings.HasSuffix(p, ".json")) {
			names = append(names, p)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}
	if len(names) == 0 {
		return fmt.Errorf("list records: no *.json or *.json.gz files found")
	}
	slices.Sort(names)
	for i, n := range names {
		if i == len(names)/2 {
			r.o.At("ingest")
		}
		b, err := fs.ReadFile(r.o.Records, n)
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		var got struct {
			Accepted int `json:"accepted"`
			Refused  []struct {
				Code   string `json:"code"`
				Reason string `json:"reason"`
			} `json:"refused"`
		}
		if err := r.send(ctx, http.MethodPost, r.sys.Intake+"/v1/cloudtrail", tenantQuery(Tenants[0]), "application/json", b, &got); err != nil {
			return fmt.Errorf("post %s: %w", n, err)
		}
		r.res.EventsIngested += got.Accepted
		r.res.EventsRefused += len(got.Refused)
		for _, f := range got.Refused {
			r.rep.Bad("%s: %s: %s", n, f.Code, f.Reason)
		}
	}
	r.rep.Good("%d records of %d techniques accepted durably, %d refused", r.res.EventsIngested, len(names), r.res.EventsRefused)
	return nil
}

// hijack lets one agent behave as usual and then do what it never did in this task.
func (r *run) hijack(ctx context.Context) error {
	victim := r.agents[0]
	r.rep.Step(fmt.Sprintf("A hijack: %s uses a tool it never used in its task", victim.name))
	now := time.Now().UTC()
	call := func(n int, tool, dest string, class events.ActionClass) events.ToolCalled {
		return events.ToolCalled{Activity: events.Activity{Identity: victim.name, IdentityKind: events.KindAgent, Owner: r.person,
			Session: "run-1", Task: victim.task, Tool: tool, ToolArgsDest: []string{dest}, Destination: audience(victim.tenant),
			Action: tool, ActionClass: class, Outcome: events.OutcomeSuccess}}
	}
	var list []events.Event
	for i := range 8 {
		e, err := events.New(events.Origin{Source: "/demo/agent", Tenant: victim.tenant, Time: now.Add(time.Duration(i-10) * time.Second), Discriminator: fmt.Sprint(i)},
			call(i, []string{"orders.read", "orders.update"}[i%2], "orders-db", []events.ActionClass{events.ClassRead, events.ClassWrite}[i%2]))
		if err != nil {
			return err
		}
		list = append(list, e)
	}
	e, err := events.New(events.Origin{Source: "/demo/agent", Tenant: victim.tenant, Time: now, Discriminator: "hijack"},
		call(9, "payments.transfer", "acct-9931@offshore.example", events.ClassWrite))
	if err != nil {
		return err
	}
	list = append(list, e)
	for _, e := range list {
		b, err := events.Encode(e)
		if err != nil {
			return err
		}
		if err := r.send(ctx, http.MethodPost, r.sys.Intake+"/v1/events", tenantQuery(victim.tenant), events.ContentType, b, nil); err != nil {
			return fmt.Errorf("post activity: %w", err)
		}
	}
	return nil
}

// collectAlerts waits for the detectors and shows what they said.
func (r *run) collectAlerts(ctx context.Context) error {
	var list []events.AnomalyDetected
	read := func() error {
		list = list[:0]
		for _, t := range Tenants {
			var part []events.AnomalyDetected
			if err := r.call(ctx, http.MethodGet, r.sys.Alerts, "/v1/alerts", tenantQuery(t), nil, &part); err != nil {
				return fmt.Errorf("list alerts: %w", err)
			}
			list = append(list, part...)
		}
		return nil
	}
	victim := r.agents[0].name
	var readErr error
	settled, last := 0, -1
	err := waitFor(ctx, 20*time.Second, func() bool {
		if readErr = read(); readErr != nil {
			return true
		}
		if len(list) != last {
			settled, last = 0, len(list)
		}
		settled++
		return settled > 20 && slices.ContainsFunc(list, func(p events.AnomalyDetected) bool { return p.Identity == victim && p.Detector == "D13" })
	})
	if readErr != nil {
		return readErr
	}
	if err != nil {
		return fmt.Errorf("alert on the hijacked agent: %w", err)
	}
	shown := map[string]bool{}
	for _, p := range list {
		r.res.Alerts[p.Detector]++
		if p.Identity != victim {
			r.res.AlertsOnRecords[p.Detector]++
		}
		if !shown[p.Detector] || p.Identity == victim {
			shown[p.Detector] = true
			r.rep.Bad("%-8s %s %s: %s", p.Severity, p.Detector, p.Name, p.Explanation)
			r.rep.Line("         owner %s, feature %s; do: %s", or(p.Owner, "unknown"), or(p.Feature, "unknown"), p.Proposed.Command)
		}
	}
	r.rep.Good("%d alerts by %d detectors on the real records, and the hijack", len(list), len(r.res.AlertsOnRecords))
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
