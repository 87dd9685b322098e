// Package sample holds raw AWS CloudTrail records of 35 cloud attack techniques, as
// real input for the demo and for tests. The file name is the technique. Anything
// in the services module may import it.
//
// The records are detonation logs of DataDog's stratus-red-team (Apache-2.0, see
// LICENSE and NOTICE), made on a live account; addresses, user agents, accounts and
// regions were randomised by their publisher.
package sample

import "embed"

// FS holds <technique>.json.gz, each a gzipped JSON array of records, with LICENSE
// and NOTICE.
//
//go:embed *.json.gz LICENSE NOTICE
var FS embed.FS
