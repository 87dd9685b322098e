package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// mend is what to do about a server that does not sync every write.
const mend = `put this into the server's configuration and restart it:

    jetstream {
      store_dir: "/data"
      sync_interval: always
    }`

// SyncAlways reports whether the server is known to sync every write before it
// acknowledges (sync_interval: always). The error says how to mend it and wraps
// ErrUnsafeServer. What is not known counts as unsafe.
func (c *Conn) SyncAlways(ctx context.Context) error {
	switch {
	case c.cfg.ServerSyncAlways != nil:
		if !c.cfg.ServerSyncAlways() {
			return fmt.Errorf("%w: the embedded server runs without SyncAlways: set it in its options", ErrUnsafeServer)
		}
		return nil
	case len(c.cfg.SystemSeed) > 0:
		return c.syncBySystem(ctx)
	default:
		return c.syncByMonitor(ctx)
	}
}

// jsInfo is the part of a server's JetStream report (/jsz, JSZ) that matters here.
type jsInfo struct {
	ID       string `json:"server_id"`
	Disabled bool   `json:"disabled"`
	Config   struct {
		SyncAlways bool `json:"sync_always"`
	} `json:"config"`
}

func unsafe(server string) error {
	return fmt.Errorf("%w: server %s does not sync every write before it acknowledges it, so a power cut may take acknowledged revokes with it; %s", ErrUnsafeServer, server, mend)
}

func unknown(why error, how string) error {
	return fmt.Errorf("%w: cannot read its sync setting (%w); %s. If it does not sync every write, %s", ErrUnsafeServer, why, how, mend)
}

// syncByMonitor asks the HTTP monitoring endpoint, and makes sure that it belongs
// to the server we are connected to.
func (c *Conn) syncByMonitor(ctx context.Context) error {
	const how = "set nats.monitor to the server's monitoring address and `http_port: 8222` in its configuration, or give a system account's seed"
	base := c.cfg.MonitorURL
	if base == "" {
		u, err := url.Parse(c.nc.ConnectedUrl())
		if err != nil || u.Hostname() == "" {
			return unknown(errors.New("the server's address is not known"), how)
		}
		base = "http://" + joinPort(u.Hostname(), "8222")
	}
	ctx, cancel := context.WithTimeout(ctx, c.t.monitorWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/jsz?config=1", nil)
	if err != nil {
		return unknown(err, how)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return unknown(err, how)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return unknown(fmt.Errorf("%s answered %s", base, resp.Status), how)
	}
	var info jsInfo
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&info); err != nil {
		return unknown(fmt.Errorf("read the answer of %s: %w", base, err), how)
	}
	if id := c.nc.ConnectedServerId(); info.ID != id {
		return unknown(fmt.Errorf("%s belongs to server %s, not to %s", base, info.ID, id), how)
	}
	if !info.Config.SyncAlways {
		return unsafe(c.nc.ConnectedServerName())
	}
	return nil
}

func joinPort(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}

// syncBySystem asks every server through the system account.
func (c *Conn) syncBySystem(ctx context.Context) error {
	const how = "check that the system account's seed is right"
	ctx, cancel := context.WithTimeout(ctx, 2*c.t.monitorWait)
	defer cancel()
	cfg := c.cfg
	cfg.Name += "-system"
	nc, err := dial(ctx, cfg, cfg.SystemSeed, c.log)
	if err != nil {
		return unknown(err, how)
	}
	defer nc.Close()
	answers, err := nc.SubscribeSync(nc.NewRespInbox())
	if err != nil {
		return unknown(err, how)
	}
	if err := nc.PublishRequest("$SYS.REQ.SERVER.PING.JSZ", answers.Subject, []byte(`{"config":true}`)); err != nil {
		return unknown(err, how)
	}
	wait, met := c.t.monitorWait, false
	for {
		m, err := answers.NextMsg(wait)
		switch {
		case errors.Is(err, nats.ErrTimeout) && met:
			return nil
		case errors.Is(err, nats.ErrTimeout):
			return unknown(errors.New("the connected server did not answer in the system account"), how)
		case err != nil:
			return unknown(err, how)
		}
		var answer struct {
			Server struct {
				ID   string `json:"id"`
				Name string `json:"name"`
			} `json:"server"`
			Data jsInfo `json:"data"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return unknown(fmt.Errorf("read an answer: %w", err), how)
		}
		if answer.Data.Disabled {
			continue
		}
		if !answer.Data.Config.SyncAlways {
			return unsafe(answer.Server.Name)
		}
		if answer.Server.ID == c.nc.ConnectedServerId() {
			met, wait = true, 300*time.Millisecond // the others are as near
		}
	}
}
