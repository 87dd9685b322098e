package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/receipt"
)

// exposure says who could still say yes, and until when at the latest.
func (r *run) exposure(s state) {
	if s.State == "closed" || len(s.Missing) == 0 {
		return
	}
	left := time.Until(s.AcceptedAt.Add(guard.DefaultLease + time.Second))
	r.rep.Line("exposed  %d of %d guards have not answered (%s); their leases end in %.1f s at the latest",
		len(s.Missing), s.Expected, strings.Join(s.Missing, " "), max(0, left.Seconds()))
}

// verify checks the receipts as an auditor would, with the kill feed's public key and
// no network, and shows what each tenant's own log says of a denial.
func (r *run) verify(ctx context.Context, s state) error {
	for _, res := range r.resources {
		d := res.refusal.Load()
		if d == nil || d.Revocation != s.Revocation {
			continue
		}
		r.res.Revocation.DeniedInLogs++
		r.rep.Line("log      of orders-%-8s %s by revocation %s of %s: %s", res.tenant, d.Code, d.Revocation[:8], d.By, d.Reason)
	}
	if s.State != "closed" {
		return nil
	}
	bundle, err := r.bundle(ctx, s.Revocation)
	if err != nil {
		return fmt.Errorf("fetch receipts: %w", err)
	}
	rep, err := receipt.Verify(strings.NewReader(bundle), r.sys.FeedKey)
	if err != nil {
		return fmt.Errorf("verify receipts: %w", err)
	}
	r.res.Revocation.ReceiptsVerified = len(rep.Points)
	r.rep.Good("%d receipts verified offline; Merkle root %s", len(rep.Points), rep.Statement.MerkleRoot)
	return nil
}

// bundle is the closed revocation's receipts as text.
func (r *run) bundle(ctx context.Context, id string) (text string, err error) {
	return text, r.patient(ctx, func() error {
		bearer, err := r.sys.Operator(ctx)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.sys.Revocation+"/v1/revocations/"+url.PathEscape(id)+"/receipts", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := r.sys.HTTP.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return &statusError{status: resp.StatusCode, url: req.URL.Path, body: string(b)}
		}
		text = string(b)
		return nil
	})
}
