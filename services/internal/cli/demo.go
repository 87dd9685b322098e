package cli

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"github.com/lanyard-nhi/lanyard/services/intake/sample"
	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/demo"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/spf13/cobra"
)

// DemoUsers are the guards of the demo's three services.
func DemoUsers() []config.User {
	users := make([]config.User, 0, len(demo.Tenants))
	for _, t := range demo.Tenants {
		users = append(users, config.User{Kind: "guard", Tenant: t, Point: "orders-" + t})
	}
	return users
}

func demoCommand(o *options) *cobra.Command {
	var records string
	var attach, keep bool
	var agents int
	c := &cobra.Command{
		Use: "demo", Short: "The main job, on screen: one revoke cascades end to end, on real input", Args: exactArgs(0, "no arguments"),
		Long: `Starts the embedded system in a temporary directory, posts raw CloudTrail records of
real attack techniques, lets an orchestrator delegate to 40 agents in three tenants,
raises alerts, revokes the orchestrator once, and shows that the whole subtree is
refused everywhere while its siblings go on. Ends by itself in under a minute.`,
		Example: `  lanyard demo
  lanyard demo --json
  lanyard demo --records DIR          # other CloudTrail files
  lanyard demo --attach --data DIR    # on the Lanyard that runs with this data directory`,
		RunE: func(c *cobra.Command, _ []string) error {
			rec := fs.FS(sample.FS)
			if records != "" {
				rec = os.DirFS(records)
			}
			var rep demo.Reporter = demo.Quiet{}
			if !o.json {
				rep = &demo.Screen{W: c.OutOrStdout(), Colour: colours(c.OutOrStdout()).on}
			}
			data := o.data
			if !attach {
				dir, err := os.MkdirTemp("", "lanyard-demo-")
				if err != nil {
					return fmt.Errorf("make data directory: %w", err)
				}
				data = dir
				if !keep {
					defer os.RemoveAll(dir)
				}
				rep.Step("Start: embedded NATS (every write synced), Redis-compatible store, six services, OIDC issuer")
				stop, err := startDemo(c, dir)
				if err != nil {
					return err
				}
				defer stop()
				rep.Good("data in %s", dir)
			}
			sys, closeFeeds, err := DemoSystem(data)
			if err != nil {
				return err
			}
			defer closeFeeds()
			opts := demo.Options{Agents: agents, Records: rec}
			if attach { // it may have been played there before, and what is revoked stays revoked
				opts.Suffix, opts.Patience = "-"+strconv.FormatInt(time.Now().UnixMilli(), 36), 10*time.Second
			}
			res, err := demo.Run(c.Context(), sys, opts, rep)
			if o.json {
				if perr := printJSON(c.OutOrStdout(), res); perr != nil {
					return perr
				}
			}
			if err != nil {
				return exitError{exitNotTrue, fmt.Errorf("the demo did not hold: %w", err)}
			}
			rep.Step(fmt.Sprintf("Done in %.0f s: one revoke, %d credentials in %d tenants, %d of %d receipts, siblings untouched",
				res.Seconds, res.Revocation.Descendants, res.Tenants, res.Revocation.ReceiptsEnforced, res.Revocation.ReceiptsExpected))
			return nil
		},
	}
	c.Flags().StringVar(&records, "records", "", "directory with CloudTrail *.json or *.json.gz (default: the built-in sample)")
	c.Flags().BoolVar(&attach, "attach", false, "use the Lanyard that runs with --data instead of starting one")
	c.Flags().BoolVar(&keep, "keep", false, "keep the temporary data directory")
	c.Flags().IntVar(&agents, "agents", 40, "number of delegated agents")
	return c
}

// startDemo starts an all-in-one with the demo's guards as NATS users.
func startDemo(c *cobra.Command, dir string) (stop func(), err error) {
	conf := config.Default(dir)
	conf.NATS.Users = DemoUsers()
	log, err := logger(c, "error")
	if err != nil {
		return nil, err
	}
	sys, err := allinone.Start(c.Context(), allinone.Options{Config: conf, Log: log})
	if err != nil {
		return nil, err
	}
	return func() { _ = sys.Stop() }, nil // the demo is over; what failed was logged
}

// awaitKeys fetches the issuer's keys, again for a while when the issuer is just
// starting, as a product that starts beside it would.
func awaitKeys(ctx context.Context, rk *guard.RemoteKeys) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		err := rk.Refresh(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-t.C:
		}
	}
}

// DemoSystem is the demo's view of the Lanyard whose operator's files are in data.
// The returned function closes the feeds of its guards.
func DemoSystem(data string) (demo.System, func(), error) {
	ends, err := readEndpoints(data)
	if err != nil {
		return demo.System{}, nil, err
	}
	cred, err := operator.Load(ends.Operator)
	if err != nil {
		return demo.System{}, nil, err
	}
	secret, err := os.ReadFile(filepath.Join(data, "keys", "local-issuer.secret"))
	if err != nil {
		return demo.System{}, nil, fmt.Errorf("read secret of the local issuer: %w", err)
	}
	ring, err := keys.Open(filepath.Join(data, "keys"), false)
	if err != nil {
		return demo.System{}, nil, err
	}
	feedKey, err := ring.FeedPublic()
	if err != nil {
		return demo.System{}, nil, err
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	var feeds []*natsfeed.Feed
	src := operator.NewSource(cred, client, time.Now)
	sys := demo.System{Issuer: ends.Issuer, Intake: ends.Intake, Alerts: ends.Alerts, Revocation: ends.Revocation, LocalOIDC: ends.LocalOIDC,
		LocalSecret: strings.TrimSpace(string(secret)), Operator: src.Token, FeedKey: feedKey, HTTP: client}
	sys.Guard = func(ctx context.Context, tenant, point, audience string) (guard.Config, error) {
		user := service.UserName(config.User{Kind: "guard", Tenant: tenant, Point: point})
		feed, err := natsfeed.DialUser(ends.NATS, user, filepath.Join(data, "keys", "nats", user+".nk"))
		if err != nil {
			return guard.Config{}, err
		}
		feeds = append(feeds, feed)
		rk := &guard.RemoteKeys{URL: ends.Issuer + "/.well-known/jwks.json", Client: client}
		if err := awaitKeys(ctx, rk); err != nil {
			return guard.Config{}, err
		}
		return guard.Config{Point: point, Tenant: tenant, Issuer: ends.Issuer, Audience: audience, Keys: rk, FeedKey: feedKey, Feed: feed}, nil
	}
	return sys, func() {
		for _, f := range feeds {
			f.Close()
		}
	}, nil
}
