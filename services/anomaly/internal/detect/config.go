package detect

// Config holds every threshold of the detectors. The zero value is not usable; take
// DefaultConfig and change what should differ.
type Config struct {
	MaxDepth int // D06: longest delegation chain that policy allows
}

// DefaultConfig is what detection runs with when nothing else is said.
func DefaultConfig() Config {
	return Config{MaxDepth: 4}
}
