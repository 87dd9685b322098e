package bus

import (
	"context"

	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"go.uber.org/zap"
)

// DialFeed connects the NATS user cfg.Name to the kill feed on a connection of its
// own, so that a burst elsewhere cannot hold up revokes. It waits for the server,
// with retries, until ctx ends. close ends the connection.
func DialFeed(ctx context.Context, cfg Config) (feed *natsfeed.Feed, close func(), err error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	nc, err := dial(ctx, cfg, cfg.NkeySeed, cfg.Log.Named("feed"))
	if err != nil {
		return nil, nil, err
	}
	feed, err = natsfeed.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return feed, nc.Close, nil
}
