// Package rediscache keeps the entries of package cache in Redis.
//
// Every entry is one key, so that a purge is one command whatever the number of
// entries, and everything about it shares one hash slot, so that it works on
// standalone servers, behind Sentinel and on Cluster alike.
package rediscache
