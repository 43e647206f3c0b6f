// Package bench measures herdless side by side with other libraries, and with
// the floor beneath all of them: the plain handler, and the bare command on the
// same Redis.
//
// `make bench` runs BenchmarkPeers, prints one table, and writes
// docs/benchmarks.md with a picture of each scenario. A scenario is a table of
// entrants (implementations) that do the same work in short turns, one after the
// other, in one process, in another order each round; compare_test.go has how.
// What an entrant does is checked while it is measured.
//
// The rows of one scenario are to be compared with one another, in one run. The
// machine and what else it is doing decide about the rest.
//
// `make bench-lock` measures locks in more detail.
package bench
