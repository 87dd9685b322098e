package grant

import (
	"slices"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// link is one thing a credential hangs from.
type link struct {
	kind   lineage.Kind
	tenant string // "" for domain and key
	id     string
}

// holder is who a credential is for.
type holder struct {
	tenant, identity, owner, feature string
	issuer, subject                  string              // of its attestation
	launcher                         *events.Attestation // who started the task; nil: nobody else
}

func (h holder) workload() link {
	return link{lineage.KindWorkload, h.tenant, h.issuer + " " + h.subject}
}

// rootLinks is the lineage of a first credential, root first.
func rootLinks(h holder, kid, task, jti string) []link {
	out := []link{
		{lineage.KindDomain, "", h.issuer},
		{lineage.KindKey, "", kid},
		{lineage.KindTenant, h.tenant, h.tenant},
		{lineage.KindOwner, h.tenant, h.owner},
		{lineage.KindFeature, h.tenant, h.feature},
		{lineage.KindIdentity, h.tenant, h.identity},
		h.workload(),
	}
	if by := h.launcher; by != nil {
		out = append(out, link{lineage.KindDomain, "", by.Issuer}, link{lineage.KindWorkload, h.tenant, by.Issuer + " " + by.Subject})
	}
	return append(out, link{lineage.KindTask, h.tenant, task}, link{lineage.KindCredential, h.tenant, jti})
}

// stepLinks is what a delegation adds below its parent's lineage. Domain and key are
// there because the actor may be vouched for by another issuer, or the token signed
// by a newer key, than the parent; usually they repeat and fall out.
func stepLinks(h holder, from, trust, delegation, kid, jti string) []link {
	var out []link
	if trust != "" {
		out = append(out, link{lineage.KindTrust, from, trust})
	}
	return append(out,
		link{lineage.KindDelegation, h.tenant, delegation},
		link{lineage.KindDomain, "", h.issuer},
		link{lineage.KindKey, "", kid},
		link{lineage.KindTenant, h.tenant, h.tenant},
		link{lineage.KindOwner, h.tenant, h.owner},
		link{lineage.KindFeature, h.tenant, h.feature},
		link{lineage.KindIdentity, h.tenant, h.identity},
		h.workload(),
		link{lineage.KindCredential, h.tenant, jti},
	)
}

// extend appends the links' handles to the parent's, without repeats. It fails when
// the lineage would hold more than lineage.Max handles.
func extend(n *lineage.Namer, parent []lineage.Handle, links []link) ([]lineage.Handle, *Error) {
	lin := make([]lineage.Handle, len(parent), len(parent)+len(links))
	copy(lin, parent)
	for _, l := range links {
		if h := n.Name(l.kind, l.tenant, l.id); !slices.Contains(lin, h) {
			lin = append(lin, h)
		}
	}
	if len(lin) > lineage.Max {
		return nil, refuse(InvalidRequest, "the lineage would hold %d handles, at most %d fit: delegate in fewer steps", len(lin), lineage.Max)
	}
	return lin, nil
}

// nameable is the links that the log of a tenant may name: its own and those of no
// tenant, as far as they are in the lineage, in its order.
func nameable(n *lineage.Namer, tenant string, lin []lineage.Handle, links []link) []events.Named {
	out := make([]events.Named, 0, len(links))
	at := make([]int, 0, len(links))
	for _, l := range links {
		if l.id == "" || l.tenant != "" && l.tenant != tenant {
			continue
		}
		h := n.Name(l.kind, l.tenant, l.id)
		i := slices.Index(lin, h)
		if i < 0 || slices.Contains(at, i) {
			continue
		}
		j, _ := slices.BinarySearch(at, i)
		at = slices.Insert(at, j, i)
		out = slices.Insert(out, j, events.Named{Handle: h.String(), Kind: string(l.kind), Tenant: l.tenant, ID: l.id})
	}
	return out
}

func texts(lin []lineage.Handle) []string {
	out := make([]string, len(lin))
	for i, h := range lin {
		out[i] = h.String()
	}
	return out
}
