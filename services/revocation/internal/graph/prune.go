package graph

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
)

// Prune drops what expired more than Grace ago. Running it twice, or in two
// processes, does no harm: a minute's keys are listed in one set, which goes last.
func (g *Graph) Prune(ctx context.Context) error {
	minutes, err := g.redis.SMembers(ctx, minutesKey()).Result()
	if err != nil {
		return fmt.Errorf("prune graph: %w", err)
	}
	// The whole minute must be past, and no fold of it may be under way.
	before := minute(g.now().Add(-Grace)) - 1
	for _, m := range minutes {
		min, err := strconv.ParseInt(m, 10, 64)
		if err != nil || min >= before {
			continue
		}
		if err := g.pruneMinute(ctx, min); err != nil {
			return fmt.Errorf("prune minute %d of graph: %w", min, err)
		}
	}
	return nil
}

func (g *Graph) pruneMinute(ctx context.Context, min int64) error {
	handles, err := g.redis.SMembers(ctx, expiryKey(min)).Result()
	if err != nil {
		return err
	}
	for _, h := range handles {
		if err := g.pruneHandle(ctx, h, min); err != nil {
			return err
		}
	}
	ids, err := g.redis.SMembers(ctx, issuedKey(min)).Result()
	if err != nil {
		return err
	}
	for page := range slices.Chunk(ids, 500) {
		if err := g.pruneCredentials(ctx, page); err != nil {
			return err
		}
	}
	_, err = g.redis.Pipelined(ctx, func(p state.Pipe) error {
		p.Del(ctx, issuedKey(min))
		p.Del(ctx, expiryKey(min))
		p.SRem(ctx, minutesKey(), min)
		return nil
	})
	return err
}

func (g *Graph) pruneCredentials(ctx context.Context, ids []string) error {
	records, err := g.records(ctx, ids)
	if err != nil {
		return err
	}
	_, err = g.redis.Pipelined(ctx, func(p state.Pipe) error {
		for _, r := range records {
			jti := r.CredentialIssued.Credential
			p.HDel(ctx, namesKey(), g.of(lineage.KindCredential, r.Tenant, jti).Handle)
			p.HDel(ctx, hashKey(r.TokenSHA256), r.TokenSHA256)
			p.HDel(ctx, recordKey(jti), jti)
		}
		return nil
	})
	return err
}

func (g *Graph) pruneHandle(ctx context.Context, handle string, min int64) error {
	fields, err := g.redis.HKeys(ctx, countKey(handle)).Result()
	if err != nil {
		return err
	}
	named, err := g.Names(ctx, handle)
	if err != nil {
		return err
	}
	left := 0
	_, err = g.redis.Pipelined(ctx, func(p state.Pipe) error {
		for _, f := range fields {
			if _, exp := unfield(f); exp/60 <= min {
				p.HDel(ctx, countKey(handle), f)
			} else {
				left++
			}
		}
		if left == 0 && passing(named[handle]) {
			p.HDel(ctx, namesKey(), handle)
		}
		p.Del(ctx, memberKey(handle, min))
		return nil
	})
	return err
}
