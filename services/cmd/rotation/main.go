// Command rotation runs the service rotation of Lanyard as a process of its own.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/rotation"
)

func main() { os.Exit(service.Main("rotation", rotation.New)) }
