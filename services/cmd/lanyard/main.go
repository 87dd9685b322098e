// Command lanyard is the operator's tool and the all-in-one server.
package main

import (
	"os"

	"github.com/lanyard-nhi/lanyard/services/internal/cli"
)

func main() { os.Exit(cli.Main()) }
