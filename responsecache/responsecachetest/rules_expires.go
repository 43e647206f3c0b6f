package responsecachetest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

func statusText(status int) string { return strconv.Itoa(status) }

// expires is about Expires and the dates that it is compared with (RFC 9111 §5.3).
func expires() []group {
	date := dateIn(http.TimeFormat, 3600)
	valid := group{
		section: "RFC 9110 §5.6.7 dates",
		rule:    "a recipient accepts all three forms of a date",
		cases: []scenario{
			{name: "IMF-fixdate", steps: reused(200, "Expires: "+date)},
			{name: "RFC 850", steps: reused(200, "Expires: "+dateIn("Monday, 02-Jan-06 15:04:05 GMT", 3600))},
			{name: "asctime", steps: reused(200, "Expires: "+dateIn(time.ANSIC, 3600))},
			{name: "asctime, day of one digit", steps: reused(200, "Expires: "+time.Date(time.Now().Year()+1, time.March, 7, 1, 2, 3, 0, time.UTC).Format(time.ANSIC))},
			{name: "the last year that there is", steps: reused(200, "Expires: Fri, 31 Dec 9999 23:59:59 GMT")},
			{name: "RFC 850, past", steps: notReused(200, "Expires: "+dateIn("Monday, 02-Jan-06 15:04:05 GMT", -3600))},
			{name: "asctime, past", steps: notReused(200, "Expires: "+dateIn(time.ANSIC, -3600))},
			{name: "long past", steps: notReused(200, "Expires: Thu, 01 Jan 1970 00:00:00 GMT")},
			{name: "before 1970", steps: notReused(200, "Expires: Sun, 06 Nov 1904 08:49:37 GMT")},
		},
	}
	lowerCase := group{
		section: "RFC 9111 §4.2 case of dates",
		rule:    "a recipient should match dates whatever their case, though they are specified to be case-sensitive",
		cases: []scenario{
			{name: "lower case", steps: reused(200, "Expires: "+strings.ToLower(date))},
			{name: "upper case", steps: reused(200, "Expires: "+strings.ToUpper(date))},
		},
	}
	invalid := group{
		section: "RFC 9111 §5.3 invalid Expires",
		rule:    `an invalid date, "0" especially, is in the past`,
	}
	for name, value := range map[string]string{
		"0": "0", "-1": "-1", "empty": "", "a word": "never", "a number": strconv.FormatInt(time.Now().Unix()+3600, 10), "seconds": "3600",
		"no zone":             strings.TrimSuffix(date, " GMT"),
		"UTC":                 strings.Replace(date, "GMT", "UTC", 1),
		"EST":                 strings.Replace(date, "GMT", "EST", 1),
		"offset":              strings.Replace(date, "GMT", "+0000", 1),
		"ISO 8601":            dateIn(time.RFC3339, 3600),
		"without a weekday":   date[5:],
		"wrong separator":     strings.Replace(date, ",", ";", 1),
		"no comma":            strings.Replace(date, ",", "", 1),
		"two blanks":          strings.Replace(date, ", ", ",  ", 1),
		"year of two digits":  dateIn("Mon, 02 Jan 06 15:04:05 GMT", 3600),
		"hyphens":             dateIn("Mon, 02-Jan-2006 15:04:05 GMT", 3600),
		"no seconds":          dateIn("Mon, 02 Jan 2006 15:04 GMT", 3600),
		"dots":                dateIn("Mon, 02 Jan 2006 15.04.05 GMT", 3600),
		"hour 25":             "Wed, 01 Jan 2098 25:00:00 GMT",
		"day 32":              "Wed, 32 Jan 2098 00:00:00 GMT",
		"30 February":         "Sun, 30 Feb 2098 00:00:00 GMT",
		"month unknown":       "Wed, 01 Foo 2098 00:00:00 GMT",
		"something behind it": date + " or so",
		"quoted":              `"` + date + `"`,
		"two dates":           date + ", " + date,
	} {
		invalid.cases = append(invalid.cases, scenario{name: name, steps: notReused(200, "Expires: "+value)})
	}
	invalid.cases = append(
		invalid.cases,
		scenario{name: "the first of two is", steps: notReused(200, "Expires: 0", "Expires: "+date)},
		scenario{name: "with public", steps: notReused(200, "Cache-Control: public", "Expires: 0")},
	)
	later := httpDate(3600)
	return []group{valid, lowerCase, invalid, {
		section: "RFC 9111 §4.2.1 Expires and Date",
		rule:    "the lifetime is Expires minus Date, so that the origin's clock does not matter",
		cases: []scenario{
			{name: "equal", steps: notReused(200, "Expires: "+later, "Date: "+later)},
			{name: "Date in the future", steps: reused(200, "Expires: "+httpDate(7200), "Date: "+later)},
			{name: "Date in the future, Expires before it", steps: notReused(200, "Expires: "+httpDate(1800), "Date: "+later)},
			{name: "Date in the future, with max-age", steps: reused(200, minute, "Date: "+later)},
			{name: "Date a while ago", steps: flow(
				get().answer(200, "Expires: "+httpDate(1000), "Date: "+httpDate(-1000)),
				get().hit(1),
			)},
			{name: "Date a while ago, max-age shorter", steps: flow(
				// Whether Date makes it older than Age says is the cache's choice.
				get().answer(200, minute, "Date: "+httpDate(-3600)),
				get().may(steps(1), 200, minute),
			)},
			{name: "both in the past", steps: notReused(200, "Expires: "+httpDate(-1000), "Date: "+httpDate(-1060), "Age: 60")},
			{name: "Date invalid", steps: reused(200, "Expires: "+later, "Date: today")},
			{name: "ttl", steps: flow(
				get().answer(200, "Expires: "+httpDate(7200), "Date: "+later),
				get().hit(1).says("hit; ttl=3600"),
			)},
		},
	}}
}

// ages is about the age that a response has when it comes (RFC 9111 §4.2.3, §5.1).
func ages() []group {
	const hour = "Cache-Control: max-age=3600"
	arrives := func(name string, want int, ages ...string) scenario {
		return scenario{name: name, steps: flow(get().answer(200, append(ages, hour)...), get().hit(1).aged(want))}
	}
	return []group{
		{
			section: "RFC 9111 §4.2.3 age",
			rule:    "a response is fresh while its lifetime is greater than its age: the one that it came with, and the time since",
			cases: []scenario{
				arrives("younger than its lifetime", 100, "Age: 100"),
				{name: "ttl is what is left", steps: flow(get().answer(200, "Age: 100", hour), get().hit(1).says("hit; ttl=3500"))},
				{name: "as old as its lifetime", steps: notReused(200, minute, "Age: 60")},
				{name: "older", steps: notReused(200, minute, "Age: 61")},
				{name: "far older", steps: notReused(200, minute, "Age: 99999999999999999999")},
				{name: "older than s-maxage", steps: notReused(200, "Cache-Control: max-age=3600, s-maxage=60", "Age: 100")},
				{name: "older than by Expires", steps: notReused(200, "Expires: "+httpDate(60), "Age: 100")},
			},
		},
		{
			section: "RFC 9111 §5.1 several ages",
			rule:    "of several members of Age the first one counts",
			cases: []scenario{
				arrives("two lines", 100, "Age: 100", "Age: 7200"),
				arrives("a list", 100, "Age: 100, 7200"),
				{name: "two lines, stale", steps: notReused(200, hour, "Age: 7200", "Age: 0")},
				{name: "a list, stale", steps: notReused(200, hour, "Age: 7200, 0")},
			},
		},
		{
			section: "RFC 9111 §5.1 invalid Age",
			rule:    "an Age that is not a number of seconds is ignored",
			cases: []scenario{
				arrives("negative", 0, "Age: -7200"), arrives("a word", 0, "Age: old"), arrives("a fraction", 0, "Age: 7200.5"),
				arrives("quoted", 0, `Age: "7200"`), arrives("empty", 0, "Age:"), arrives("signed", 0, "Age: +7200"), arrives("with a unit", 0, "Age: 7200s"),
			},
		},
	}
}
