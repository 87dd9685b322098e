package natsfeed

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// DialUser is Dial as a NATS user of Lanyard, such as "guard-acme-orders", with the
// file that holds the user's nkey seed. The user may subscribe to its own inbox
// only, so replies come there.
func DialUser(url, user, seedFile string, opts ...nats.Option) (*Feed, error) {
	nkey, err := nats.NkeyOptionFromSeed(seedFile)
	if err != nil {
		return nil, fmt.Errorf("read seed of NATS user %s: %w", user, err)
	}
	inbox := "_INBOX_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, user)
	return Dial(url, append([]nats.Option{nkey, nats.CustomInboxPrefix(inbox)}, opts...)...)
}
