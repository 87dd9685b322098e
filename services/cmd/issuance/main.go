// Command issuance runs the service issuance of Lanyard as a process of its own.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance"
)

func main() { os.Exit(service.Main("issuance", issuance.New)) }
