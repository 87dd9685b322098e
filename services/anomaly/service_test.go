package anomaly

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

var t0 = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

func env(c *bus.Conn) service.Env {
	return service.Env{Bus: c, Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Now: time.Now}
}

// start runs a fresh process of the service and returns what stops it.
func start(t *testing.T, c *bus.Conn) (stop func()) {
	t.Helper()
	s, err := New(env(c))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Run(ctx, bus.Spec{Service: s.Name, Handlers: s.Handlers, Exclusive: s.Exclusive, OnOwn: s.OnOwn, Concurrency: 8})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the service does not stop")
		}
	}
	t.Cleanup(stop)
	return stop
}

func event(t *testing.T, tenant, id string, at time.Time, p events.Payload) events.Event {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: at, ID: id}, p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func called(t *testing.T, id string, after time.Duration, a events.Activity) events.Event {
	a.Destination = "svc"
	if a.Outcome == "" {
		a.Outcome = events.OutcomeSuccess
	}
	return event(t, "acme", id, t0.Add(after), events.APICalled{Activity: a})
}

func publish(t *testing.T, c *bus.Conn, es ...events.Event) {
	t.Helper()
	if err := c.Publish(t.Context(), es...); err != nil {
		t.Fatal(err)
	}
}

// stored lists the alerts in the stream.
func stored(t *testing.T, c *bus.Conn) []events.AnomalyDetected {
	t.Helper()
	var out []events.AnomalyDetected
	for s, err := range c.Read(t.Context(), bus.StreamAlert, "nhi.alert.>", 1) {
		if err != nil {
			t.Fatal(err)
		}
		p, err := events.As[events.AnomalyDetected](s.Event)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func detectors(as []events.AnomalyDetected) []string {
	var out []string
	for _, a := range as {
		out = append(out, a.Detector+" "+a.Identity)
	}
	slices.Sort(out)
	return out
}

// await polls until the alerts are what is wanted.
func await(t *testing.T, c *bus.Conn, want ...string) []events.AnomalyDetected {
	t.Helper()
	slices.Sort(want)
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got := stored(t, c)
		if slices.Equal(detectors(got), want) {
			return got
		}
		select {
		case <-deadline:
			t.Fatalf("alerts (-want +got):\n%s", cmp.Diff(want, detectors(got)))
		case <-tick.C:
		}
	}
}

func TestServiceRaisesAndRestarts(t *testing.T) {
	c := bustest.Start(t)
	stop := start(t, c)
	publish(t, c,
		event(t, "acme", "reg", t0, events.IdentityRegistered{Registration: events.Registration{Identity: "bot", Kind: events.KindAgent, Owner: "mail team",
			Feature: "triage", Purpose: "sorts mail", KillSwitch: "identity", Aliases: []string{"arn:aws:iam::1:role/bot"}}}),
		event(t, "acme", "rev", t0, events.RevocationAccepted{Revocation: "rv", Mode: events.ModeRevoke, Handle: "AAAAAAAAAAAAAAAA", Reason: "leaked", By: "ops",
			Target: events.Target{Kind: "task", Tenant: "acme", ID: "t1"}, AcceptedAt: t0, Guards: []events.ExpectedGuard{}, Tenants: []string{"acme"}}),
	)
	// Four of the five denials that make a probe come before the restart.
	for i := range 4 {
		publish(t, c, called(t, fmt.Sprint("d", i), time.Duration(i)*time.Second, events.Activity{Identity: "probe", Action: "x:y", Resource: fmt.Sprint("r", i), Outcome: events.OutcomeDenied}))
	}
	publish(t, c,
		called(t, "u1", time.Minute, events.Activity{Identity: "late", Action: "x:y", Lineage: []string{"AAAAAAAAAAAAAAAA"}}),
		called(t, "u1", time.Minute, events.Activity{Identity: "late", Action: "x:y", Lineage: []string{"AAAAAAAAAAAAAAAA"}}),
		called(t, "u0", -time.Minute, events.Activity{Identity: "early", Action: "x:y", Lineage: []string{"AAAAAAAAAAAAAAAA"}}),
	)
	await(t, c, "D01 late")
	stop()
	stop = start(t, c)
	publish(t, c,
		called(t, "d4", 5*time.Second, events.Activity{Identity: "probe", Action: "x:y", Resource: "r4", Outcome: events.OutcomeDenied}),
		called(t, "u2", 2*time.Minute, events.Activity{Identity: "late", Action: "x:y", Lineage: []string{"AAAAAAAAAAAAAAAA"}}), // the same incident
		called(t, "e1", 2*time.Minute, events.Activity{Identity: "arn:aws:iam::1:role/bot", Action: "cloudtrail:StopLogging"}),
	)
	got := await(t, c, "D01 late", "D20 probe", "D26 bot")
	for _, a := range got {
		switch a.Detector {
		case "D20":
			if d := cmp.Diff([]string{"d1", "d2", "d3", "d4"}, a.Evidence); d != "" || a.Count != 5 {
				t.Errorf("evidence across the restart, count %d: %s", a.Count, d)
			}
		case "D26":
			if a.Owner != "mail team" || a.Feature != "triage" || a.Purpose != "sorts mail" {
				t.Errorf("no context after the restart: %+v", a)
			}
		}
	}
	stop()
	start(t, c)
	// A sentinel shows that everything before it was handled; nothing was said twice.
	publish(t, c, called(t, "s", time.Hour, events.Activity{Identity: "sentinel", Action: "signin:ConsoleLogin", Interactive: true}))
	await(t, c, "D01 late", "D20 probe", "D26 bot", "D16 sentinel")
	if n, err := c.LastSequence(t.Context(), bus.StreamLog, "nhi.log.acme.risk.changed.bot"); err != nil || n == 0 {
		t.Errorf("no risk level on the log: %d, %v", n, err)
	}
}

func TestDisabledMustExist(t *testing.T) {
	e := env(nil)
	e.Config.Anomaly.Disabled = []string{"D99"}
	if _, err := New(e); err == nil {
		t.Error("D99 is accepted as a detector")
	}
	e = env(nil)
	e.Config = config.Config{Anomaly: config.Anomaly{Disabled: []string{"D20"}}}
	if _, err := New(e); err != nil {
		t.Error(err)
	}
}

func TestCatalogIsWhole(t *testing.T) {
	var ids []string
	for _, d := range Catalog() {
		ids = append(ids, d.ID)
	}
	want := []string{"D01", "D02", "D03", "D04", "D05", "D06", "D07", "D08", "D09", "D10", "D11", "D12", "D13", "D14", "D15", "D16", "D17", "D20", "D21", "D22", "D23", "D24", "D26", "D27", "D28"}
	if d := cmp.Diff(want, ids); d != "" {
		t.Error(d)
	}
}
