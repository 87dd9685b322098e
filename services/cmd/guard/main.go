// Command guard runs the service guard of Lanyard as a process of its own.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/guard"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

func main() { os.Exit(service.Main("guard", guard.New)) }
