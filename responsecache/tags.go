package responsecache

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/herdless/herdless/responsecache/internal/fields"
)

// The fields in which a handler can tag its response, besides AddTags.
const (
	surrogateKey = "Surrogate-Key"
	cacheTag     = "Cache-Tag"
)

// addedTags is where the tags of AddTags stand in a stored header, for what keeps the
// response and has no more than that: a 304, a HEAD, a failure. It is no name that a field
// can have, and isOwn.
const addedTags = "(tags)"

// AddTags gives tags, by which Cache.PurgeTags finds it, to the response that the
// handler is making. ctx is the context of the request that the handler got; with
// any other one, and where nothing is stored, it does nothing. It is to be called
// before the handler has returned, and may be from several goroutines.
func AddTags(ctx context.Context, tags ...string) {
	if x := insideOf(ctx).leading; x != nil {
		x.addTags(tags)
	}
}

// The tags of the engine are also those of groups and of URLs, so that each kind
// has a beginning of its own.
func userTags(tags []string) []string {
	list := make([]string, 0, len(tags))
	for _, tag := range tags {
		if tag != "" {
			list = append(list, "tag "+tag)
		}
	}
	return list
}

func groupTags(origin string, groups []string) []string {
	list := make([]string, len(groups))
	for i, group := range groups {
		list[i] = "group " + joinParts(origin, group)
	}
	return list
}

// tagsIn returns the tags in the fields of a response or of a purge.
func tagsIn(h http.Header) []string {
	var tags []string
	for _, value := range h[surrogateKey] {
		tags = append(tags, strings.Fields(value)...)
	}
	for _, value := range h[cacheTag] {
		for tag := range strings.SplitSeq(value, ",") {
			tags = append(tags, strings.TrimSpace(tag))
		}
	}
	return tags
}

// tagsOf returns all tags of a response with the header h, each once.
func (x *exchange) tagsOf(h http.Header) []string {
	tags := slices.Concat(
		userTags(x.route.policy.Tags),
		userTags(tagsIn(h)),
		userTags(h[addedTags]),
		userTags(x.addedTags()),
		groupTags(x.name.origin(), fields.ParseGroups(h["Cache-Groups"])),
		[]string{x.name.tag()},
	)
	slices.Sort(tags)
	return slices.Compact(tags)
}
