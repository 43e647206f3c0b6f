package responsecachetest

import (
	"fmt"
	"strings"
)

// cacheGroups is about responses that are invalidated together (RFC 9875).
func cacheGroups() []group {
	// after has a response of some groups, and then another one that invalidates
	// some.
	steps := func(groups []string, method string, fields ...string) []*step {
		stored := []string{minute}
		for _, line := range groups {
			stored = append(stored, "Cache-Groups: "+line)
		}
		return flow(get().at("/one").answer(200, stored...), ask(method).at("/two").answer(200, fields...))
	}
	gone := func(name, groups, invalidated string) scenario {
		return scenario{name: name, steps: append(steps(lines(groups), "POST", "Cache-Group-Invalidation: "+invalidated), get().at("/one").answer(200, minute))}
	}
	kept := func(name, groups, invalidated string) scenario {
		return scenario{name: name, steps: append(steps(lines(groups), "POST", "Cache-Group-Invalidation: "+invalidated), get().at("/one").hit(1))}
	}
	var many []string
	for i := range 32 {
		many = append(many, fmt.Sprintf(`"{id}%s%02d"`, strings.Repeat("x", 4), i))
	}
	g := group{
		section: "RFC 9875 §3 Cache-Group-Invalidation",
		rule:    "the response to an unsafe request invalidates the responses of the same origin that are in one of its groups, compared character by character",
		cases: []scenario{
			gone("the same", `"{id}g"`, `"{id}g"`),
			gone("one of several", `"{id}f", "{id}g"`, `"{id}g"`),
			gone("by one of several", `"{id}g"`, `"{id}f", "{id}g"`),
			gone("parameters", `"{id}g";a=1`, `"{id}g";b`),
			gone("any characters", `"{id} a, b;c=\"d\" \\ *"`, `"{id} a, b;c=\"d\" \\ *"`),
			gone("one of 32", strings.Join(many, ", "), many[31]),
			gone("by one of 32", many[31], strings.Join(many, ", ")),
			kept("another", `"{id}g"`, `"{id}f"`),
			kept("case", `"{id}g"`, `"{id}G"`),
			kept("a part", `"{id}g"`, `"{id}"`),
			kept("blanks", `"{id}g"`, `"{id}g "`),
			kept("no group at all", `"{id}g"`, ``),
			kept("a Token", `"{id}g"`, `g{id}g`),
			kept("one Token among Strings", `"{id}g"`, `"{id}g", foo`),
			kept("not a List", `"{id}g"`, `"{id}g", "`),
			kept("Tokens", `g{id}`, `"g{id}"`),
			kept("a response that is not in it any more", `"{id}f"`, `"{id}g"`),
			{name: "on several lines", steps: append(
				steps(lines(`"{id}f"`, `"{id}g"`), "POST", `Cache-Group-Invalidation: "{id}x"`, `Cache-Group-Invalidation: "{id}g"`),
				get().at("/one").answer(200, minute),
			)},
			{name: "PUT", steps: append(steps(lines(`"{id}g"`), "PUT", `Cache-Group-Invalidation: "{id}g"`), get().at("/one").answer(200, minute))},
			{name: "DELETE", steps: append(steps(lines(`"{id}g"`), "DELETE", `Cache-Group-Invalidation: "{id}g"`), get().at("/one").answer(200, minute))},
			{name: "an unknown method", steps: append(steps(lines(`"{id}g"`), "FOO", `Cache-Group-Invalidation: "{id}g"`), get().at("/one").answer(200, minute))},
			{name: "all of a group, and no other", steps: flow(
				get().at("/one").answer(200, minute, `Cache-Groups: "{id}g"`),
				get("X-V: 1").at("/two").answer(200, minute, `Cache-Groups: "{id}g", "{id}f"`, "Vary: X-V"),
				get("X-V: 2").at("/two").answer(200, minute, `Cache-Groups: "{id}f"`, "Vary: X-V"),
				get().at("/three").answer(200, minute, `Cache-Groups: "{id}f"`),
				ask("POST").answer(200, `Cache-Group-Invalidation: "{id}g"`),
				get().at("/one").answer(200, minute),
				get("X-V: 1").at("/two").answer(200, minute, "Vary: X-V"),
				get().at("/three").hit(4),
			)},
			{name: "what may be used stale", steps: flow(
				get().at("/one").answer(200, append(staleBy40(", stale-while-revalidate=1000"), `Cache-Groups: "{id}g"`)...),
				ask("POST").answer(200, `Cache-Group-Invalidation: "{id}g"`),
				get().at("/one").answer(200, minute),
			)},
			{name: "a group that a 304 named", steps: flow(
				get().at("/one").answer(200, minute, "Age: 100", `ETag: "a"`),
				get().at("/one").answer(304, minute, `ETag: "a"`, `Cache-Groups: "{id}g"`).gives(1),
				ask("POST").answer(200, `Cache-Group-Invalidation: "{id}g"`),
				get().at("/one").answer(200, minute),
			)},
			{name: "both fields pass", steps: flow(
				get().answer(200, minute, `Cache-Groups: "{id}g"`).lines("Cache-Groups: *"),
				get().hit(1).lines("Cache-Groups: *"),
				ask("POST").answer(200, `Cache-Group-Invalidation: "{id}x"`).lines("Cache-Group-Invalidation: *"),
			)},
		},
	}
	safeMethods := group{
		section: "RFC 9875 §3 safe methods",
		rule:    "Cache-Group-Invalidation is ignored on responses to safe methods",
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE"} {
		safeMethods.cases = append(safeMethods.cases, scenario{
			name:  method,
			steps: append(steps(lines(`"{id}g"`), method, `Cache-Group-Invalidation: "{id}g"`), get().at("/one").hit(1)),
		})
	}
	return []group{g, safeMethods, {
		section: "RFC 9875 §2.1 origins",
		rule:    "responses of other origins are in other groups",
		cases: []scenario{
			{name: "another host", steps: flow(
				get("Host: other.example").answer(200, minute, `Cache-Groups: "{id}g"`),
				ask("POST").answer(200, `Cache-Group-Invalidation: "{id}g"`),
				get("Host: other.example").hit(1),
			)},
			{name: "another port", steps: flow(
				get("Host: other.example:81").at("/one").answer(200, minute, `Cache-Groups: "{id}g"`),
				ask("POST", "Host: other.example").at("/two").answer(200, `Cache-Group-Invalidation: "{id}g"`),
				get("Host: other.example:81").at("/one").hit(1),
			)},
		},
	}}
}
