package detect

// Bounds of what is kept of peers: identities of one owner in one tenant.
const (
	maxPeerGroups = 1 << 14
	maxPeerValues = 256
)

// peers is what identities of one owner use, as counts of identities.
type peers struct {
	members int
	values  map[uint64]uint16
}

// peerGroup is the group of an input's identity; nil without an owner.
func (f *Facts) peerGroup(in *Input, make_ bool) *peers {
	owner := in.Activity.Owner
	if in.Reg != nil {
		owner = in.Reg.Owner
	}
	if owner == "" {
		return nil
	}
	k := pair{in.Tenant, owner}
	g := f.peers[k]
	if g == nil && make_ && len(f.peers) < maxPeerGroups {
		g = &peers{values: map[uint64]uint16{}}
		f.peers[k] = g
	}
	return g
}

// peersWith counts the peers that use value h of dimension d, and all of them.
func (f *Facts) peersWith(in *Input, d dim, h uint32) (with, of int) {
	g := f.peerGroup(in, false)
	if g == nil {
		return 0, 0
	}
	return int(g.values[uint64(d)<<32|uint64(h)]), g.members
}

// peerTook notes that an identity of the group uses a value for the first time.
func (f *Facts) peerTook(in *Input, d dim, h uint32) {
	g := f.peerGroup(in, true)
	if g == nil {
		return
	}
	k := uint64(d)<<32 | uint64(h)
	if n, ok := g.values[k]; (ok || len(g.values) < maxPeerValues) && n < 1<<16-1 {
		g.values[k] = n + 1
	}
}

// Joined notes that the input's identity was never seen before.
func (in *Input) Joined() {
	if g := in.Facts.peerGroup(in, true); g != nil {
		g.members++
	}
}
