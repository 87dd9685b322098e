// Package schemas embeds the normative JSON Schemas of Lanyard's events, so that Go
// code validates against the very files that other languages read. It holds no
// logic; events and services may import it.
package schemas

import "embed"

// FS holds <noun>.<verb>.v1.json for every event type and common.v1.json, which
// they share.
//
//go:embed *.v1.json
var FS embed.FS

// Examples holds, per event type, examples/<noun>.<verb>/valid-*.json, each one
// complete event, and invalid-*.json, each an object of "code" (the name of the
// error), "why", and either "event" or, for what is not even JSON, "raw".
//
//go:embed examples
var Examples embed.FS

// AsyncAPI is the AsyncAPI 3.0 document of all channels. It is generated from the
// catalogue; a test keeps it current.
//
//go:embed asyncapi.yaml
var AsyncAPI []byte
