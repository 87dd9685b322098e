package events

// Encode is the structured JSON form of e, canonical: one byte sequence per event.
func Encode(e Event) ([]byte, error) { panic("being built") }

// Decode reads one event from its structured JSON form, strictly: no duplicate
// or case-variant members, valid UTF-8, nothing after the object, specversion 1.0,
// every required attribute, a known type, at most MaxSize bytes. It does not
// check the data against its schema; see Validate. Every error wraps one of the
// errors of this package.
func Decode(b []byte) (Event, error) { panic("being built") }

// Validate checks the data of e against the JSON Schema of its type and its
// envelope against Lanyard's rules (tenant, partition key, subject = the payload's
// entity). It is what the edge runs on everything that comes from outside.
func Validate(e Event) error { panic("being built") }
