// Package cloudtrail turns raw AWS CloudTrail records into neutral activity events:
// who acted, with which credential, from where, on what, with which outcome. Only
// intake imports it.
//
// It is a set of pure functions. What it knows of CloudTrail's habits: the identity
// of a role session is the role and not the session; a service name may stand
// where an address belongs; user agents may stand in brackets; Lambda's action names
// end in a date; session names carry timestamps; some pipelines write times with a
// space; and a call that mints a credential is an event of the caller.
package cloudtrail
