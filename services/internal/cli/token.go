package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/spf13/cobra"
)

const (
	grantJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT        = "urn:ietf:params:oauth:token-type:jwt"
)

func tokenCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Issue, exchange, decode and verify tokens"}
	c.AddCommand(tokenIssue(o), tokenExchange(o), tokenDecode(o), tokenVerify(o))
	return c
}

// tokenFlags are the flags of issue and exchange.
type tokenFlags struct {
	assertion, local                        string
	tenant, task, purpose, env, sensitivity string
	scope, audience                         []string
}

func (t *tokenFlags) register(c *cobra.Command, who string) {
	f := c.Flags()
	f.StringVar(&t.assertion, "assertion", "", "file with "+who+"'s OIDC token; '-' reads standard input")
	f.StringVar(&t.local, "local", "", "let the local development issuer vouch for this subject, or spiffe://lanyard.local/ ID, instead")
	f.StringVar(&t.tenant, "tenant", "", "tenant, when the subject is bound in several")
	f.StringVar(&t.task, "task", "", "id of the task (required)")
	f.StringVar(&t.purpose, "purpose", "", "what for (required)")
	f.StringVar(&t.env, "environment", "", "environment of the task")
	f.StringVar(&t.sensitivity, "data-sensitivity", "", "sensitivity of the data it touches")
	f.StringSliceVar(&t.scope, "scope", nil, "scope to ask for (repeat)")
	f.StringSliceVar(&t.audience, "audience", nil, "resource it is for (repeat)")
}

func (t *tokenFlags) form(grant string) url.Values {
	v := url.Values{"grant_type": {grant}}
	set := func(k, s string) {
		if s != "" {
			v.Set(k, s)
		}
	}
	set("tenant", t.tenant)
	set("task", t.task)
	set("purpose", t.purpose)
	set("environment", t.env)
	set("data_sensitivity", t.sensitivity)
	set("scope", strings.Join(t.scope, " "))
	for _, a := range t.audience {
		v.Add("audience", a)
	}
	return v
}

// proof is the workload's OIDC token.
func (t *tokenFlags) proof(ctx context.Context, o *options, ends endpoints, stdin io.Reader) (string, error) {
	switch {
	case t.assertion != "" && t.local != "":
		return "", usage("give either --assertion or --local")
	case t.assertion != "":
		return readToken(stdin, t.assertion)
	case t.local != "":
		return localProof(ctx, o.data, ends, t.local)
	}
	return "", usage("prove the workload: pass --assertion FILE, or --local SUBJECT for development")
}

// localProof asks the local development issuer for a token of subject, or for a
// JWT-SVID when it is a SPIFFE ID.
func localProof(ctx context.Context, data string, ends endpoints, subject string) (string, error) {
	if ends.LocalOIDC == "" {
		return "", errors.New("ask local issuer: this Lanyard runs none; pass --assertion FILE")
	}
	secret, err := os.ReadFile(filepath.Join(data, "keys", "local-issuer.secret"))
	if err != nil {
		return "", fmt.Errorf("ask local issuer: %w", err)
	}
	form := url.Values{"client_id": {"local"}, "client_secret": {strings.TrimSpace(string(secret))}, "sub": {subject}, "aud": {ends.Issuer}}
	path := "/token"
	if strings.HasPrefix(subject, "spiffe://") {
		path = "/spiffe/svid"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ends.LocalOIDC+path, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask local issuer: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", fmt.Errorf("ask local issuer: %w", err)
	}
	defer resp.Body.Close()
	var t struct {
		IDToken string `json:"id_token"`
		SVID    string `json:"svid"`
		Problem string `json:"error_description"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("ask local issuer: %w", err)
	}
	if err := json.Unmarshal(b, &t); err != nil || resp.StatusCode != http.StatusOK || t.IDToken+t.SVID == "" {
		return "", fmt.Errorf("ask local issuer: it answered %d: %s", resp.StatusCode, clean(t.Problem))
	}
	return t.IDToken + t.SVID, nil
}

// readToken reads a token from a file, or from stdin for "-".
func readToken(stdin io.Reader, path string) (string, error) {
	var b []byte
	var err error
	if path == "-" {
		b, err = io.ReadAll(io.LimitReader(stdin, 1<<20))
	} else {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// printToken prints the token alone, so that it can be piped, or as JSON.
func printToken(c *cobra.Command, o *options, tok string, ttl time.Duration) error {
	if o.json {
		return printJSON(c.OutOrStdout(), map[string]any{"access_token": tok, "expires_in": int(ttl.Seconds()), "sha256": token.HashText(tok)})
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), tok)
	return err
}

func tokenIssue(o *options) *cobra.Command {
	var t tokenFlags
	var launch, launchLocal string
	c := &cobra.Command{
		Use: "issue", Short: "Get a task credential for a workload that proves itself", Args: exactArgs(0, "no arguments"),
		Example: `  lanyard token issue --assertion "$ACTIONS_ID_TOKEN_FILE" --task build-17 --purpose "publish build" \
      --scope artifacts.write --audience https://artifacts.acme.example
  lanyard token issue --local orchestrator --task t1 --purpose "try it"
  lanyard token issue --local spiffe://lanyard.local/agents/bot --task t1 --purpose "try it"
  lanyard token issue --local report-bot --launch-local ana --task t1 --purpose "ana starts it"`,
		RunE: func(c *cobra.Command, _ []string) error {
			ends, err := readEndpoints(o.data)
			if err != nil {
				return err
			}
			proof, err := t.proof(c.Context(), o, ends, c.InOrStdin())
			if err != nil {
				return err
			}
			form := t.form(grantJWTBearer)
			form.Set("assertion", proof)
			by := tokenFlags{assertion: launch, local: launchLocal}
			if launch != "" || launchLocal != "" {
				if proof, err = by.proof(c.Context(), o, ends, c.InOrStdin()); err != nil {
					return fmt.Errorf("launch: %w", err)
				}
				form.Set("launch_token", proof)
			}
			client, err := httpClient(o.data)
			if err != nil {
				return err
			}
			tok, ttl, err := operator.Exchange(c.Context(), client, ends.Issuer+"/oauth2/token", form)
			if err != nil {
				return fmt.Errorf("issue token: %w", err)
			}
			return printToken(c, o, tok, ttl)
		},
	}
	t.register(c, "the workload")
	c.Flags().StringVar(&launch, "launch", "", "file with the OIDC token of the person or service that starts the task")
	c.Flags().StringVar(&launchLocal, "launch-local", "", "let the local development issuer vouch for who starts the task instead")
	return c
}

func tokenExchange(o *options) *cobra.Command {
	var t tokenFlags
	var subject string
	c := &cobra.Command{
		Use: "exchange", Short: "Delegate: exchange a token for a narrower one of another actor (RFC 8693)", Args: exactArgs(0, "no arguments"),
		Example: `  lanyard token issue --local orchestrator --task t1 --purpose "plan" > parent.jwt
  lanyard token exchange --subject-token parent.jwt --local worker-1 --tenant globex --scope orders.read --purpose "fetch"`,
		RunE: func(c *cobra.Command, _ []string) error {
			ends, err := readEndpoints(o.data)
			if err != nil {
				return err
			}
			if subject == "" {
				return usage("pass --subject-token FILE, the token to delegate from")
			}
			if subject == "-" && t.assertion == "-" {
				return usage("standard input can hold one token only")
			}
			parent, err := readToken(c.InOrStdin(), subject)
			if err != nil {
				return err
			}
			proof, err := t.proof(c.Context(), o, ends, c.InOrStdin())
			if err != nil {
				return err
			}
			form := t.form(grantExchange)
			form.Set("subject_token", parent)
			form.Set("subject_token_type", typeAccess)
			form.Set("actor_token", proof)
			form.Set("actor_token_type", typeJWT)
			client, err := httpClient(o.data)
			if err != nil {
				return err
			}
			tok, ttl, err := operator.Exchange(c.Context(), client, ends.Issuer+"/oauth2/token", form)
			if err != nil {
				return fmt.Errorf("exchange token: %w", err)
			}
			return printToken(c, o, tok, ttl)
		},
	}
	c.Flags().StringVar(&subject, "subject-token", "", "file with the token to delegate from; '-' reads standard input (required)")
	t.register(c, "the actor")
	return c
}

// argToken is the token named by the argument: a file, "-" or the text itself.
func argToken(c *cobra.Command, arg string) (string, error) {
	if strings.Count(arg, ".") == 2 && !strings.ContainsAny(arg, "/\\") {
		if _, err := os.Stat(arg); err != nil {
			return arg, nil
		}
	}
	return readToken(c.InOrStdin(), arg)
}

func tokenDecode(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "decode FILE|-|TOKEN", Short: "Show what a token says, without believing it", Args: exactArgs(1, "FILE, '-' or a token"),
		Example: "  lanyard token decode token.jwt",
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := argToken(c, args[0])
			if err != nil {
				return err
			}
			parts := strings.Split(raw, ".")
			if len(parts) != 3 {
				return fmt.Errorf("decode token: it has %d parts, want 3 separated by dots", len(parts))
			}
			out := map[string]any{"verified": false, "sha256": token.HashText(raw)}
			for i, name := range []string{"header", "claims"} {
				b, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
				if err != nil {
					return fmt.Errorf("decode token: its %s is not base64url", name)
				}
				var v map[string]any
				dec := json.NewDecoder(bytes.NewReader(b))
				dec.UseNumber()
				if err := dec.Decode(&v); err != nil {
					return fmt.Errorf("decode token: its %s is not a JSON object", name)
				}
				out[name] = v
			}
			return printJSON(c.OutOrStdout(), out)
		},
	}
}

func tokenVerify(o *options) *cobra.Command {
	var audience string
	c := &cobra.Command{
		Use: "verify FILE|-|TOKEN", Short: "Check signature, times and lineage against the running Lanyard",
		Long: `Checks the token's signature with the issuer's keys, its issuer, audience and times,
and asks the guard whether any handle of its lineage is revoked. Exits 3 when the
token would not be honoured.`,
		Example: "  lanyard token verify token.jwt --audience https://orders.globex.example",
		Args:    exactArgs(1, "FILE, '-' or a token"),
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := argToken(c, args[0])
			if err != nil {
				return err
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			v, err := a.verify(c.Context(), raw, audience)
			if err != nil {
				return err
			}
			if o.json {
				if err := printJSON(c.OutOrStdout(), v); err != nil {
					return err
				}
			} else if v.Honoured {
				fmt.Fprintf(c.OutOrStdout(), "honoured: %s/%s, task %s, expires %s\n", clean(v.Claims.Tenant), clean(v.Claims.Subject), clean(v.Claims.Task), clock(time.Unix(v.Claims.Expires, 0)))
			}
			if !v.Honoured {
				return notTrue("the token is not honoured: %s", v.Reason)
			}
			return nil
		},
	}
	c.Flags().StringVar(&audience, "audience", "", "resource that would check it (default: any)")
	return c
}

// verdict is what token verify answers.
type verdict struct {
	Honoured bool          `json:"honoured"`
	Code     string        `json:"code,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Claims   *token.Claims `json:"claims,omitempty"`
	Entry    *guard.Entry  `json:"revoked_by,omitempty"`
}

// ownAudience is the first audience a token names, which is as good as any when
// nobody asked about a certain one.
func ownAudience(raw string) string {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return ""
	}
	var c struct {
		Audience token.Strings `json:"aud"`
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(b, &c) != nil || len(c.Audience) == 0 {
		return ""
	}
	return c.Audience[0]
}

// verify checks raw with the issuer's keys and the guard's kill set.
func (a *api) verify(ctx context.Context, raw, audience string) (verdict, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.ends.Issuer+"/.well-known/jwks.json", nil)
	if err != nil {
		return verdict{}, fmt.Errorf("get keys: %w", err)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return verdict{}, fmt.Errorf("get keys: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return verdict{}, fmt.Errorf("get keys: %w", err)
	}
	keys, err := token.ParseJWKS(b)
	if err != nil {
		return verdict{}, fmt.Errorf("get keys: %w", err)
	}
	if audience == "" {
		audience = ownAudience(raw)
	}
	claims, err := token.Verify(raw, keys, token.Expect{Issuer: a.ends.Issuer, Audience: audience, Now: time.Now(), Leeway: 5 * time.Second})
	if err != nil {
		return verdict{Code: "invalid_token", Reason: err.Error()}, nil
	}
	var answer struct {
		Fresh bool         `json:"fresh"`
		Dead  bool         `json:"dead"`
		Entry *guard.Entry `json:"entry"`
	}
	body := map[string]any{"lineage": claims.Lineage}
	if err := a.call(ctx, http.MethodPost, a.ends.Guard, "/v1/lineage", nil, body, &answer); err != nil {
		return verdict{}, fmt.Errorf("ask guard: %w", err)
	}
	v := verdict{Honoured: answer.Fresh && !answer.Dead, Claims: &claims, Entry: answer.Entry}
	switch {
	case answer.Dead && answer.Entry != nil:
		v.Code = guard.CodeRevoked
		v.Reason = fmt.Sprintf("revoked by %s at %s: %s (%s)", answer.Entry.By, clock(answer.Entry.At), answer.Entry.Reason, answer.Entry.Revocation)
	case !answer.Fresh:
		v.Code, v.Reason = guard.CodeStale, "the guard has not heard from the kill feed and answers no"
	}
	return v, nil
}
