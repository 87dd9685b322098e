//go:build zzdeps

package zzdeps

import (
	_ "github.com/go-jose/go-jose/v4"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/lanyard-nhi/lanyard/schemas"
	_ "github.com/nats-io/nats.go/jetstream"
	_ "github.com/santhosh-tekuri/jsonschema/v6"
	_ "github.com/synadia-io/orbit.go/jetstreamext"
	_ "golang.org/x/sys/unix"
	_ "gopkg.in/yaml.v3"
	_ "pgregory.net/rapid"
	_ "github.com/go-json-experiment/json/jsontext"
	_ "golang.org/x/mod/modfile"
)
