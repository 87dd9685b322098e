package cli

import (
	"bufio"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/receipt"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/spf13/cobra"
)

func receiptCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "receipt", Short: "Export and verify the proof that a revocation was enforced"}
	c.AddCommand(receiptExport(o), receiptVerify(o))
	return c
}

func receiptExport(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "export REVOCATION", Short: "Write the signed receipts of a closed revocation", Args: exactArgs(1, "a revocation id"),
		Long: `Writes what proves a closed revocation to somebody who does not trust this system: the
closure, signed by the kill feed's key, and every enforcement point's own signed receipt,
one JSON object per line.`,
		Example: "  lanyard receipt export 3f0c... > proof.ndjson",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			resp, err := a.send(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/revocations/"+url.PathEscape(args[0])+"/receipts", nil, nil, receipt.MediaType)
			if e, ok := errors.AsType[*apiError](err); ok && e.Code == "not_closed" {
				return notTrue("export receipts: %w", err)
			}
			if err != nil {
				return fmt.Errorf("export receipts: %w", err)
			}
			defer resp.Body.Close()
			if _, err := io.Copy(c.OutOrStdout(), resp.Body); err != nil {
				return fmt.Errorf("export receipts: %w", err)
			}
			return nil
		},
	}
}

func receiptVerify(o *options) *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use: "verify FILE", Short: "Verify a proof offline; says who stopped when", Args: exactArgs(1, "a file with a proof, or - for stdin"),
		Long: `Checks, without any network: that the closure is signed by the kill feed's key, that
every receipt is signed by its enforcement point and answers this very revocation, that
whoever had to answer did or was out of its lease, that none is missing, and the Merkle
root over all of them.

The key is a file with the public JWK of the kill feed, keys/feed.pub.jwk of the
deployment; get it from its operator by a way you trust. Without --key that file of the
data directory is used.

Exit code 0: it all holds. Exit code 1: it does not, with the reason.`,
		Example: "  lanyard receipt verify proof.ndjson\n  lanyard receipt verify proof.ndjson --key feed.pub.jwk --json",
		RunE: func(c *cobra.Command, args []string) error {
			key, err := feedKey(or(keyFile, filepath.Join(o.data, "keys", "feed.pub.jwk")))
			if err != nil {
				return err
			}
			in := c.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("open proof: %w", err)
				}
				defer f.Close()
				in = f
			}
			r, err := receipt.Verify(in, key)
			if err != nil {
				return fmt.Errorf("the proof does not hold: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), r)
			}
			return printReport(c.OutOrStdout(), r)
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "file with the public JWK of the kill feed (default: DATA/keys/feed.pub.jwk)")
	return c
}

// feedKey reads the public key of a kill feed.
func feedKey(path string) (ed25519.PublicKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the kill feed's public key: %w; pass --key FILE", err)
	}
	k, err := token.ParseJWK(b)
	if err != nil {
		return nil, fmt.Errorf("read the kill feed's public key %s: %w", path, err)
	}
	public, ok := k.Public.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("read the kill feed's public key %s: it is not an Ed25519 key", path)
	}
	return public, nil
}

// printReport says what a proof proves.
func printReport(out io.Writer, r receipt.Report) error {
	w, col, s := bufio.NewWriter(out), colours(out), r.Statement
	name := s.Handle
	if s.Target.Kind != "" {
		name = targetText(s.Target)
	}
	fmt.Fprintf(w, "%s: %s of %s by %s\n", col.good("proven"), s.Mode, clean(name), clean(s.By))
	fmt.Fprintf(w, "  revocation   %s\n  accepted     %s\n  closed       %s, %s later\n", clean(s.Revocation), exact(s.AcceptedAt), exact(s.ClosedAt), ms(float64(s.ClosedAt.Sub(s.AcceptedAt).Microseconds())/1000))
	fmt.Fprintf(w, "  credentials  %d in %d tenants\n  Merkle root  %s\n", s.Descendants, s.Tenants, s.MerkleRoot)
	fmt.Fprintf(w, "%d points had to answer, %d answered:\n", s.Expected, s.Points)
	rows := make([][]string, len(r.Points))
	for i, p := range r.Points {
		by := "signed by the point"
		if p.Outcome == events.ReceiptLeaseExpired {
			by = "no receipt: it refuses by itself since then"
		} else if p.LeaseEnd == nil {
			by += ", which nobody had to wait for"
		}
		rows[i] = []string{p.Point, string(p.Outcome), exact(p.AppliedAt), "+" + ms(float64(p.AppliedAt.Sub(s.AcceptedAt).Microseconds())/1000), by}
	}
	if err := table(w, []string{"POINT", "OUTCOME", "AT", "AFTER ACCEPT", ""}, rows); err != nil {
		return err
	}
	return w.Flush()
}

// exact is a time with milliseconds.
func exact(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
