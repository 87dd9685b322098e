package grant

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// slow is an index that takes until open is closed to be fresh.
type slow struct {
	searching chan struct{}
	open      chan struct{}
}

func (s *slow) Bound(_ context.Context, _, subject string, fresh bool) ([]registry.Ref, error) {
	switch {
	case subject == "known":
		return []registry.Ref{{Tenant: "acme", Identity: subject}, {Tenant: "globex", Identity: subject}}, nil
	case fresh:
		s.searching <- struct{}{}
		<-s.open
	}
	return nil, nil
}

// TestStrangersDoNotSearchWithoutEnd: clients that do not exist cost a few searches at a
// time, and those that do are found meanwhile.
func TestStrangersDoNotSearchWithoutEnd(t *testing.T) {
	index := &slow{searching: make(chan struct{}, maxSearches), open: make(chan struct{})}
	m := &Minter{Config: Config{Bindings: index}}
	var wg sync.WaitGroup
	for range maxSearches {
		wg.Go(func() {
			if refs, err := m.namesakes(context.Background(), "nobody", ""); err != nil || refs != nil {
				t.Errorf("%v, %v", refs, err)
			}
		})
	}
	for range maxSearches {
		<-index.searching
	}
	_, err := m.namesakes(t.Context(), "nobody", "")
	require.Error(t, err)
	refs, err := m.namesakes(t.Context(), "known", "globex")
	require.NoError(t, err)
	require.Equal(t, []registry.Ref{{Tenant: "globex", Identity: "known"}}, refs)
	close(index.open)
	wg.Wait()
	_, err = m.namesakes(t.Context(), "nobody", "")
	require.NoError(t, err)
}
