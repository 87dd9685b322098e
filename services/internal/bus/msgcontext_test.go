package bus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

type ctxKey struct{}

func TestMessageContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "v"))
		defer cancel()
		settled := &messageContext{parent: parent}
		child, stop := context.WithCancel(settled)
		defer stop()
		late := &messageContext{parent: parent}
		for _, c := range []context.Context{settled, child, late} {
			if c.Err() != nil || c.Value(ctxKey{}) != "v" {
				t.Fatalf("a living context: %v, %v", c.Err(), c.Value(ctxKey{}))
			}
		}
		settled.end()
		<-settled.Done()
		<-child.Done()
		late.end()
		<-late.Done()
		for _, c := range []context.Context{settled, child, late} {
			if !errors.Is(c.Err(), context.Canceled) {
				t.Errorf("a settled message's context: %v", c.Err())
			}
		}
		waiting := &messageContext{parent: parent}
		asked := waiting.Done()
		unasked := &messageContext{parent: parent}
		cancel()
		<-asked
		if !errors.Is(waiting.Err(), context.Canceled) || !errors.Is(unasked.Err(), context.Canceled) {
			t.Errorf("after the grace period: %v, %v", waiting.Err(), unasked.Err())
		}
		<-unasked.Done()
	})
}
