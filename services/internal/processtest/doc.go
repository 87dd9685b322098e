// Package processtest runs the demo's workload on separate processes with a real
// nats-server and a real redis-server, and kills each of them. It holds tests only.
package processtest
