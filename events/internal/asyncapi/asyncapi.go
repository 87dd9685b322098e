// Package asyncapi writes the AsyncAPI 3.0 document of Lanyard's channels from the
// catalogue of events. Only its test uses it, which keeps schemas/asyncapi.yaml
// current: go test ./internal/asyncapi -update.
package asyncapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/schemas"
	"gopkg.in/yaml.v3"
)

// Document is an AsyncAPI document (AsyncAPI 3.0.0, "Schema").
type Document struct {
	AsyncAPI           string               `yaml:"asyncapi"`
	ID                 string               `yaml:"id"`
	Info               Info                 `yaml:"info"`
	DefaultContentType string               `yaml:"defaultContentType"`
	Servers            map[string]Server    `yaml:"servers"`
	Channels           map[string]Channel   `yaml:"channels"`
	Operations         map[string]Operation `yaml:"operations"`
	Components         Components           `yaml:"components"`
}

// Info describes the API.
type Info struct {
	Title       string  `yaml:"title"`
	Version     string  `yaml:"version"`
	Description string  `yaml:"description"`
	License     License `yaml:"license"`
}

// License names a licence.
type License struct {
	Name string `yaml:"name"`
	URL  string `yaml:"url"`
}

// Server is where the channels are.
type Server struct {
	Host        string `yaml:"host"`
	Protocol    string `yaml:"protocol"`
	Description string `yaml:"description"`
}

// Ref is a Reference Object.
type Ref struct {
	Ref string `yaml:"$ref"`
}

// Channel is the subject of one event type.
type Channel struct {
	Address     string               `yaml:"address"`
	Summary     string               `yaml:"summary"`
	Messages    map[string]Ref       `yaml:"messages"`
	Parameters  map[string]Parameter `yaml:"parameters"`
	Servers     []Ref                `yaml:"servers"`
	Description string               `yaml:"description,omitempty"`
}

// Parameter is one variable token of a subject.
type Parameter struct {
	Description string   `yaml:"description"`
	Enum        []string `yaml:"enum,omitempty"`
}

// Operation says what Lanyard does on a channel: it receives what products
// publish and sends everything else.
type Operation struct {
	Action   string `yaml:"action"`
	Channel  Ref    `yaml:"channel"`
	Summary  string `yaml:"summary"`
	Messages []Ref  `yaml:"messages"`
}

// Components holds the messages.
type Components struct {
	Messages map[string]Message `yaml:"messages"`
}

// Message is one event type.
type Message struct {
	Name        string    `yaml:"name"`
	Title       string    `yaml:"title"`
	Summary     string    `yaml:"summary"`
	ContentType string    `yaml:"contentType"`
	Payload     Payload   `yaml:"payload"`
	Examples    []Example `yaml:"examples"`
}

// Payload is a Multi Format Schema Object.
type Payload struct {
	SchemaFormat string         `yaml:"schemaFormat"`
	Schema       map[string]any `yaml:"schema"`
}

// Example is a Message Example Object.
type Example struct {
	Name    string         `yaml:"name"`
	Payload map[string]any `yaml:"payload"`
}

// subjects gives the address per channel; see events.Subject.
var subjects = map[events.Channel]string{
	events.ChannelIn:      "nhi.in.{tenant}.%s.%s",
	events.ChannelLog:     "nhi.log.{tenant}.%s.%s.{entity}",
	events.ChannelAlert:   "nhi.alert.{tenant}.{severity}.{detector}",
	events.ChannelReceipt: "nhi.receipt.{tenant}.{revocation}.{point}",
	events.ChannelGuard:   "nhi.guard.{tenant}.{point}",
	events.ChannelTimer:   "nhi.timer.due.{tenant}.{timer}",
}

var parameters = map[string]Parameter{
	"tenant":     {Description: "Tenant that the fact belongs to."},
	"entity":     {Description: "Entity that the fact is about; bytes outside A-Z a-z 0-9 _ - : / @ are written =XX."},
	"severity":   {Description: "Severity of the alert.", Enum: []string{"low", "medium", "high", "critical"}},
	"detector":   {Description: "Detector that raised the alert."},
	"revocation": {Description: "Id of the revocation."},
	"point":      {Description: "Id of the enforcement point."},
	"timer":      {Description: "Id of the timer."},
}

// Generate makes the document.
func Generate() (Document, error) {
	d := Document{
		AsyncAPI: "3.0.0",
		ID:       "https://lanyard.dev/asyncapi",
		Info: Info{
			Title:       "Lanyard events",
			Version:     "1.0.0",
			Description: "What products publish, what a SOC subscribes to and what one revoke event sets in motion. Every message is a CloudEvents 1.0 event in structured JSON mode of at most 64 KiB.",
			License:     License{"Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"},
		},
		DefaultContentType: events.ContentType,
		Servers: map[string]Server{
			"bus": {Host: "127.0.0.1:4222", Protocol: "nats", Description: "NATS with JetStream; each product has its own user."},
		},
		Channels:   map[string]Channel{},
		Operations: map[string]Operation{},
		Components: Components{Messages: map[string]Message{}},
	}
	for _, info := range events.Catalogue {
		name := info.Noun + "." + info.Verb
		m, err := message(info, name)
		if err != nil {
			return Document{}, fmt.Errorf("describe %s: %w", name, err)
		}
		d.Components.Messages[name] = m
		c := channel(info, name)
		c.Summary = m.Summary
		d.Channels[name] = c
		action := "send"
		if info.Channel == events.ChannelIn {
			action = "receive"
		}
		d.Operations[action+"."+name] = Operation{
			Action:   action,
			Channel:  Ref{"#/channels/" + name},
			Summary:  m.Summary,
			Messages: []Ref{{"#/channels/" + name + "/messages/" + name}},
		}
	}
	return d, nil
}

func channel(info events.TypeInfo, name string) Channel {
	address := subjects[info.Channel]
	if strings.Contains(address, "%s") {
		address = fmt.Sprintf(address, info.Noun, info.Verb)
	}
	c := Channel{
		Address:    address,
		Messages:   map[string]Ref{name: {"#/components/messages/" + name}},
		Parameters: map[string]Parameter{},
		Servers:    []Ref{{"#/servers/bus"}},
	}
	for token := range strings.SplitSeq(address, ".") {
		if p := strings.Trim(token, "{}"); p != token {
			c.Parameters[p] = parameters[p]
		}
	}
	return c
}

func message(info events.TypeInfo, name string) (Message, error) {
	raw, err := fs.ReadFile(schemas.FS, name+".v1.json")
	if err != nil {
		return Message{}, fmt.Errorf("read schema: %w", err)
	}
	var schema struct{ Description string }
	if err := json.Unmarshal(raw, &schema); err != nil {
		return Message{}, fmt.Errorf("parse schema: %w", err)
	}
	if raw, err = fs.ReadFile(schemas.Examples, "examples/"+name+"/valid-full.json"); err != nil {
		return Message{}, fmt.Errorf("read example: %w", err)
	}
	var example map[string]any
	if err := json.Unmarshal(raw, &example); err != nil {
		return Message{}, fmt.Errorf("parse example: %w", err)
	}
	return Message{
		Name:        info.Type,
		Title:       info.Noun + " " + strings.ReplaceAll(info.Verb, "_", " "),
		Summary:     schema.Description,
		ContentType: events.ContentType,
		Payload: Payload{
			SchemaFormat: "application/schema+json;version=draft-2020-12",
			Schema: map[string]any{
				"allOf": []any{
					map[string]any{"$ref": "./envelope.v1.json"},
					map[string]any{"properties": map[string]any{
						"type": map[string]any{"const": info.Type},
						"data": map[string]any{"$ref": "./" + name + ".v1.json"},
					}},
				},
			},
		},
		Examples: []Example{{Name: "full", Payload: example}},
	}, nil
}

// YAML is the text of the document; it is the same for the same catalogue.
func YAML(d Document) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Generated from the catalogue of events: go test ./internal/asyncapi -update (in events).\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(d); err != nil {
		return nil, fmt.Errorf("write AsyncAPI document: %w", err)
	}
	return b.Bytes(), nil
}
