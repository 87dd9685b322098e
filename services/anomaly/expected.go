package anomaly

import (
	"slices"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/engine"
)

// forget is how long after its end an expectation is still remembered, so that events
// that arrive late are judged by what held at their time.
const forget = 7 * 24 * time.Hour

// expectations is what analysts marked as expected. It follows alert.expected on the log
// and is safe for concurrent use.
type expectations struct {
	mu    sync.Mutex
	marks map[string]map[string]events.AlertExpected // by tenant, detector and identity; then by alert
}

func expectationKey(tenant, detector, identity string) string {
	return tenant + "\x00" + detector + "\x00" + identity
}

// note enters a mark; the newest about an alert holds. It drops what ended long ago.
func (x *expectations) note(tenant string, p events.AlertExpected) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.marks == nil {
		x.marks = map[string]map[string]events.AlertExpected{}
	}
	for key, marks := range x.marks {
		for alert, m := range marks {
			if p.ExpectedAt.Sub(m.Until) > forget {
				delete(marks, alert)
			}
		}
		if len(marks) == 0 {
			delete(x.marks, key)
		}
	}
	key := expectationKey(tenant, p.Detector, p.Identity)
	if old, ok := x.marks[key][p.Alert]; ok && old.ExpectedAt.After(p.ExpectedAt) {
		return
	}
	if x.marks[key] == nil {
		x.marks[key] = map[string]events.AlertExpected{}
	}
	x.marks[key][p.Alert] = p
}

// clear forgets all, for a state that is rebuilt.
func (x *expectations) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.marks = nil
}

// of finds the alert whose mark says that s is expected. Which of several it finds does
// not depend on the order they came in.
func (x *expectations) of(s engine.Suspect) (string, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := ""
	for alert, m := range x.marks[expectationKey(s.Tenant, s.Detector, s.Identity)] {
		if m.Until.After(m.ExpectedAt) && s.Time.Before(m.Until) && (m.AnyValue || m.Value == s.Value) && rank(s.Severity) <= rank(m.Severity) && (found == "" || alert < found) {
			found = alert
		}
	}
	return found, found != ""
}

func rank(s events.Severity) int { return slices.Index(severities, s) }
