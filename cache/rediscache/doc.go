// Package rediscache keeps the entries of package cache in Redis, and those that
// are read in this process as well.
//
// An entry is one key, and everything about it shares one hash slot, so that it
// works on standalone servers, behind Sentinel and on Cluster alike. Values that
// are longer than a chunk are split.
//
// A purge by a tag or a prefix is a record in a log, whatever the number of
// entries that it reaches. Each process knows the log, and judges what it reads by
// it. What one process purges or writes, the others are told by Pub/Sub, and they
// ask Redis regularly whether they have missed something. A process that cannot be
// sure stops using its own copies within Options.Staleness.
package rediscache
