// Package otel reads OpenTelemetry traces: of all spans it takes what agents did,
// as the GenAI and MCP semantic conventions tell it. Only intake imports it.
//
// What becomes a neutral event: a tool call (execute_tool spans and MCP tools/call), a
// call of a model, and an agent that calls or makes another. Every other span is
// skipped. Who acted, in which task and with which credential is looked for on the
// span, then on the resource; on the spans around it only when the sender says that it
// sends traces whole. lanyard.identity, lanyard.task, lanyard.run and lanyard.jti say it
// without doubt, for instance in OTEL_RESOURCE_ATTRIBUTES.
//
// Prompts, answers and arguments never leave this package; of a tool's arguments remain
// the destinations and a keyed hash.
package otel
