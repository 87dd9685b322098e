// Command revocation runs the service revocation of Lanyard as a process of its own.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation"
)

func main() { os.Exit(service.Main("revocation", revocation.New)) }
