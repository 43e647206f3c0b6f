// Package bench measures herdless against the floor beneath it: the plain
// handler, and the bare command on the same Redis. Locks are measured against
// other libraries for them. `make bench` runs it.
//
// The rows of one scenario are to be compared with one another, in one run. The
// machine and what else it is doing decide about the rest.
package bench
