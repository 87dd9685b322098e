// Package events is the language of Lanyard: the CloudEvents that products
// publish and services exchange, their payloads, their deterministic ids and
// the NATS subjects they travel on.
//
// Products import this module. It therefore depends on no server, no Redis and
// no policy engine. The JSON Schemas in the schemas module are normative; the
// Go types here are one reading of them and are tested against them in both
// directions.
package events
