package service_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
	"github.com/lanyard-nhi/lanyard/services/guard"
	"github.com/lanyard-nhi/lanyard/services/intake"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance"
	"github.com/lanyard-nhi/lanyard/services/revocation"
	"github.com/lanyard-nhi/lanyard/services/rotation"
)

func system(t *testing.T) service.Topology {
	t.Helper()
	topo, err := service.Describe(config.Default(t.TempDir()), intake.New, issuance.New, anomaly.New, rotation.New, revocation.New, guard.New)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

// The topology of Lanyard itself. When a handler table changes, so do the diagram
// and the permissions; look at the difference before writing it with -update.
func TestSystemTopologyGolden(t *testing.T) {
	topo := system(t)
	golden(t, "system.txt", topo.Text())
	golden(t, "system.mmd", topo.Mermaid())
	users, err := json.MarshalIndent(service.Permissions(topo, nil), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "system-permissions.json", string(users)+"\n")
}

// Only one service writes each thing that others believe.
func TestSystemRights(t *testing.T) {
	topo := system(t)
	writers := map[string][]string{}
	for _, n := range topo.Services {
		if n.Feed {
			writers["feed"] = append(writers["feed"], n.Service)
		}
		for _, e := range n.Produces {
			writers[e.Type] = append(writers[e.Type], n.Service)
		}
	}
	for what, want := range map[string]string{
		"feed":                        "revocation",
		events.TypeRevocationAccepted: "revocation",
		events.TypeRevocationClosed:   "revocation",
		events.TypeCredentialIssued:   "issuance",
		events.TypeIdentityRegistered: "issuance",
		events.TypeDelegationCreated:  "issuance",
		events.TypeCredentialExpired:  "rotation",
		events.TypeReceiptSigned:      "",
		events.TypeGuardAttached:      "",
	} {
		if got := strings.Join(writers[what], " "); got != want {
			t.Errorf("%s is written by %q, want %q", what, got, want)
		}
	}
	for _, u := range service.Permissions(topo, nil) {
		for _, p := range u.Publish {
			if strings.HasPrefix(p, "$JS.API.STREAM.DELETE") || strings.HasPrefix(p, "$JS.API.STREAM.PURGE") || p == ">" || strings.HasPrefix(p, "nhi.feed") {
				t.Errorf("%s may publish %s", u.Name, p)
			}
		}
		for _, s := range u.Subscribe {
			if s != "nhi.feed.>" && !strings.HasPrefix(s, bus.InboxPrefix(u.Name)) && u.Name != service.UserSystem {
				t.Errorf("%s may subscribe %s", u.Name, s)
			}
		}
	}
	// Every type that travels inside has somebody who writes it.
	for _, info := range events.Catalogue {
		if info.Channel == events.ChannelLog && len(writers[info.Type]) == 0 && !slices.Contains(unwritten, info.Type) {
			t.Errorf("nobody writes %s", info.Type)
		}
	}
}

// unwritten are the lifecycle facts that the catalogue has and no service states yet.
var unwritten = []string{events.TypeIdentityRetired}
