// Command intake runs the service intake of Lanyard as a process of its own.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/intake"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

func main() { os.Exit(service.Main("intake", intake.New)) }
