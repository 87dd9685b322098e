// Package schemas embeds the normative JSON Schemas of Lanyard's events, so that Go
// code validates against the very files that other languages read. It holds no
// logic; events and services may import it.
package schemas

import "embed"

// FS holds <noun>.<verb>.v1.json for every event type, common.v1.json and
// asyncapi.yaml.
//
//go:embed *.json
var FS embed.FS
