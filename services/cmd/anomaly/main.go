// Command anomaly runs the service anomaly of Lanyard as a process of its own.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/anomaly"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

func main() { os.Exit(service.Main("anomaly", anomaly.New)) }
