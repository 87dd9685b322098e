package engine

import "github.com/lanyard-nhi/lanyard/events"

// alerts picks the alerts out of outputs.
func alerts(out []Output) []events.AnomalyDetected {
	var as []events.AnomalyDetected
	for _, o := range out {
		if a, ok := o.Payload.(events.AnomalyDetected); ok {
			as = append(as, a)
		}
	}
	return as
}
