package service

import (
	"slices"
	"strconv"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// NATS users that are no service.
const (
	UserAll       = "lanyard"   // all services in one process
	UserProvision = "provision" // makes the streams, once, before services start
	UserOperator  = "operator"  // the CLI: dead letters, rebuild, doctor
	UserSystem    = "system"    // asks the servers for their sync setting, in the system account
)

// User is a NATS user and all that it may do; everything else is denied.
type User struct {
	Name      string   `json:"name"`
	Key       string   `json:"key,omitempty"` // public nkey; see WithKeys
	System    bool     `json:"system,omitempty"`
	Publish   []string `json:"publish"`
	Deny      []string `json:"deny,omitempty"` // of Publish
	Subscribe []string `json:"subscribe"`
}

// UserName is the NATS user of somebody outside the services.
func UserName(u config.User) string {
	if u.Kind == "guard" {
		return "guard-" + u.Tenant + "-" + u.Point
	}
	return u.Kind + "-" + u.Tenant
}

// MaxReplicas of one service have guards with enforcement points of their own.
const MaxReplicas = 10

// Point is the enforcement point of the guard inside a process: "lanyard" for all in
// one, "service-<name>" for a service, with "-<replica>" from the second replica on.
// Replicas need points of their own, since each guard signs with its own key.
func Point(service string, replica int) string {
	p := UserAll
	if service != UserAll {
		p = "service-" + service
	}
	if replica > 0 {
		p += "-" + strconv.Itoa(replica)
	}
	return p
}

// processGuard lets u answer as the guard of its process, whichever replica it is.
func processGuard(u *User, service string) {
	for i := range MaxReplicas {
		guardRights(u, SystemTenant, Point(service, i))
	}
}

// allStreams is a read-only table.
var allStreams = []string{bus.StreamIn, bus.StreamLog, bus.StreamKill, bus.StreamAlert, bus.StreamReceipt,
	bus.StreamGuard, bus.StreamTimer, bus.StreamDead, bus.StreamLease, bus.StreamSnap}

// Permissions derives every NATS user from the topology: one per service, one for
// all services in one process, the provisioner, the operator, and others, which are
// products, SOCs and guards. Each is denied everything that is not listed.
//
// A service may create read-only consumers on the streams it reads, since a
// follower is one, but may not touch another service's durable consumer. Names of
// followers are random, so two services that read the same stream could disturb
// each other's followers if they guessed the names; they cannot lose events by it.
func Permissions(t Topology, others []config.User) []User {
	var users []User
	all := User{Name: UserAll}
	for _, n := range t.Services {
		u := User{Name: n.Service}
		serviceRights(&u, n, t)
		for _, d := range u.Publish {
			if !slices.Contains(all.Publish, d) {
				all.Publish = append(all.Publish, d)
			}
		}
		processGuard(&u, n.Service)
		users = append(users, u)
	}
	processGuard(&all, UserAll)
	users = append(users, all, provisioner(), operator(t))
	for _, o := range others {
		u := User{Name: UserName(o)}
		switch o.Kind {
		case "guard":
			guardRights(&u, o.Tenant, o.Point)
		case "product":
			u.Publish = append(u.Publish, "nhi.in."+o.Tenant+".>")
		case "soc":
			u.Subscribe = append(u.Subscribe, "nhi.alert."+o.Tenant+".>")
		}
		users = append(users, u)
	}
	system := User{Name: UserSystem, System: true, Publish: []string{"$SYS.REQ.SERVER.PING.JSZ"}}
	for _, u := range users { // the bus asks under the name of its process
		system.Subscribe = append(system.Subscribe, bus.InboxPrefix(u.Name+"-system")+".>")
	}
	for i := range users {
		users[i].Subscribe = append(users[i].Subscribe, bus.InboxPrefix(users[i].Name)+".>")
	}
	users = append(users, system)
	for i := range users {
		tidy(&users[i])
	}
	return users
}

func tidy(u *User) {
	for _, list := range []*[]string{&u.Publish, &u.Subscribe, &u.Deny} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

func serviceRights(u *User, n Node, t Topology) {
	for _, s := range consumed(n) {
		u.Publish = append(u.Publish,
			"$JS.API.CONSUMER.CREATE."+s+"."+n.Service,
			"$JS.API.CONSUMER.CREATE."+s+"."+n.Service+".>",
			"$JS.API.CONSUMER.INFO."+s+"."+n.Service,
			"$JS.API.CONSUMER.MSG.NEXT."+s+"."+n.Service,
			"$JS.API.STREAM.INFO."+s,
			"$JS.ACK."+s+"."+n.Service+".>")
		if n.Exclusive { // a new owner goes back to what its predecessor had acknowledged
			u.Publish = append(u.Publish, "$JS.API.CONSUMER.RESET."+s+"."+n.Service)
		}
	}
	for _, s := range n.Reads {
		follow(u, s)
		for _, other := range t.Services {
			if other.Service != n.Service && slices.Contains(consumed(other), s) {
				u.Deny = append(u.Deny,
					"$JS.API.CONSUMER.CREATE."+s+"."+other.Service,
					"$JS.API.CONSUMER.CREATE."+s+"."+other.Service+".>",
					"$JS.API.CONSUMER.DELETE."+s+"."+other.Service,
					"$JS.API.CONSUMER.MSG.NEXT."+s+"."+other.Service)
			}
		}
	}
	for _, e := range n.Produces {
		if e.Type != events.TypeTimerDue { // the server publishes that, when it is time
			u.Publish = append(u.Publish, e.Subject)
		}
	}
	if n.Timers {
		u.Publish = append(u.Publish, "nhi.timer.set.*.*", "nhi.timer.cancel.*.*")
	}
	if n.Feed {
		u.Publish = append(u.Publish, "nhi.kill.*", "nhi.snap.*")
	}
	if n.Exclusive {
		u.Publish = append(u.Publish, "nhi.lease."+events.Token(n.Service))
		read(u, bus.StreamLease)
	}
	for _, p := range n.Points {
		guardRights(u, p.Tenant, p.Point)
	}
	u.Publish = append(u.Publish, "nhi.dead.*."+events.Token(n.Service))
}

// consumed are the streams on which a service has a durable consumer.
func consumed(n Node) []string {
	var out []string
	for _, e := range n.Consumes {
		out = append(out, e.Stream)
	}
	if n.Sweep {
		out = append(out, bus.StreamIn)
	}
	if len(out) > 0 {
		out = append(out, bus.StreamDead) // replays for this service
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// read lets u read stored messages of a stream.
func read(u *User, stream string) {
	u.Publish = append(u.Publish,
		"$JS.API.STREAM.INFO."+stream,
		"$JS.API.STREAM.MSG.GET."+stream,
		"$JS.API.DIRECT.GET."+stream,
		"$JS.API.DIRECT.GET."+stream+".>")
}

// follow lets u read a stream as it grows, through a consumer of its own.
func follow(u *User, stream string) {
	read(u, stream)
	u.Publish = append(u.Publish,
		"$JS.API.CONSUMER.CREATE."+stream+".>",
		"$JS.API.CONSUMER.INFO."+stream+".*",
		"$JS.API.CONSUMER.MSG.NEXT."+stream+".*",
		"$JS.API.CONSUMER.DELETE."+stream+".*")
}

// guardRights lets u follow the kill feed and answer as one enforcement point.
func guardRights(u *User, tenant, point string) {
	u.Subscribe = append(u.Subscribe, "nhi.feed.>")
	u.Publish = append(u.Publish,
		"$JS.API.STREAM.INFO."+bus.StreamKill,
		"$JS.API.DIRECT.GET."+bus.StreamKill,
		"$JS.API.DIRECT.GET."+bus.StreamKill+".>",
		"$JS.API.DIRECT.GET."+bus.StreamSnap+".>",
		"nhi.receipt."+tenant+".*."+events.Token(point),
		"nhi.guard."+tenant+"."+events.Token(point))
}

func provisioner() User {
	u := User{Name: UserProvision}
	for _, s := range allStreams {
		u.Publish = append(u.Publish, "$JS.API.STREAM.CREATE."+s, "$JS.API.STREAM.UPDATE."+s, "$JS.API.STREAM.INFO."+s)
	}
	return u
}

// operator reads everything, replays dead letters and asks how far consumers are.
func operator(t Topology) User {
	u := User{Name: UserOperator, Publish: []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
		"nhi.dead.>", "nhi.in.>"}}
	for _, s := range allStreams {
		follow(&u, s)
		u.Publish = append(u.Publish, "$JS.API.CONSUMER.NAMES."+s, "$JS.API.CONSUMER.LIST."+s)
		for _, n := range t.Services {
			u.Deny = append(u.Deny,
				"$JS.API.CONSUMER.CREATE."+s+"."+n.Service,
				"$JS.API.CONSUMER.CREATE."+s+"."+n.Service+".>",
				"$JS.API.CONSUMER.DELETE."+s+"."+n.Service,
				"$JS.API.CONSUMER.MSG.NEXT."+s+"."+n.Service)
		}
	}
	return u
}

// Keyring gives the public keys of NATS users; *keys.Ring is one.
type Keyring interface {
	NkeyPublic(user string) (string, error)
}

// WithKeys fills the users' public keys.
func WithKeys(users []User, ring Keyring) ([]User, error) {
	out := slices.Clone(users)
	for i := range out {
		k, err := ring.NkeyPublic(out[i].Name)
		if err != nil {
			return nil, err
		}
		out[i].Key = k
	}
	return out, nil
}
