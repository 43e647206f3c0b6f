package fields

import (
	"slices"
	"strings"
	"time"
)

var (
	shortDays = []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}
	longDays  = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
	months    = []string{"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"}
)

// ParseDate reads an HTTP-date in one of its three forms, to the letter (RFC
// 9110 §5.6.7) but for the case of names (RFC 9111 §4.2), and returns it in UTC. now tells the century of a year that has
// two digits. The name of the weekday must be one, but need not be the right one.
//
// [net/http.ParseTime] is not strict: it takes fractions of a second, and knows no
// leap second.
func ParseDate(s string, now time.Time) (time.Time, bool) {
	if day, rest, ok := strings.Cut(s, ", "); ok {
		rest, ok = cutGMT(rest)
		switch {
		case !ok:
			return time.Time{}, false
		case index(shortDays, day) >= 0:
			d, ok := scanDate("DD MMM YYYY hh:mm:ss", rest)
			return d.time(d.year, ok)
		case index(longDays, day) >= 0:
			d, ok := scanDate("DD-MMM-YY hh:mm:ss", rest)
			return d.time(d.fullYear(now), ok)
		}
		return time.Time{}, false
	}
	// asctime: a day of one digit has a space before it instead of a zero.
	if len(s) != len("Sun Nov  6 08:49:37 1994") || index(shortDays, s[:3]) < 0 {
		return time.Time{}, false
	}
	if s[8] == ' ' {
		s = s[:8] + "0" + s[9:]
	}
	d, ok := scanDate(" MMM DD hh:mm:ss YYYY", s[3:])
	return d.time(d.year, ok)
}

func cutGMT(s string) (string, bool) {
	n := len(s) - len(" GMT")
	if n < 0 || lower(s[n:]) != " gmt" {
		return s, false
	}
	return s[:n], true
}

// index returns where a name is in a list, in whatever case, or -1.
func index(names []string, name string) int {
	return slices.IndexFunc(names, func(n string) bool { return lower(n) == lower(name) })
}

// date holds the numbers of a date as written.
type date struct{ year, month, day, hour, minute, second int }

// scanDate reads s by a layout of the same length, in which Y, D, h, m and s
// stand for digits, MMM for the month, and all else for itself.
func scanDate(layout, s string) (d date, ok bool) {
	if len(s) != len(layout) {
		return d, false
	}
	for i := 0; i < len(s); i++ {
		var field *int
		switch layout[i] {
		case 'Y':
			field = &d.year
		case 'D':
			field = &d.day
		case 'h':
			field = &d.hour
		case 'm':
			field = &d.minute
		case 's':
			field = &d.second
		case 'M':
			if d.month = index(months, s[i:i+3]) + 1; d.month == 0 {
				return d, false
			}
			i += 2
			continue
		default:
			if s[i] != layout[i] {
				return d, false
			}
			continue
		}
		if s[i] < '0' || s[i] > '9' {
			return d, false
		}
		*field = *field*10 + int(s[i]-'0')
	}
	return d, true
}

// time returns the date in the given year, if there is such a one. Second 60 is
// a leap second, and the first of the next minute.
func (d date) time(year int, ok bool) (time.Time, bool) {
	first := time.Date(year, time.Month(d.month), 1, 0, 0, 0, 0, time.UTC)
	if !ok || d.day < 1 || d.day > first.AddDate(0, 1, -1).Day() || d.hour > 23 || d.minute > 59 || d.second > 60 {
		return time.Time{}, false
	}
	return time.Date(year, time.Month(d.month), d.day, d.hour, d.minute, d.second, 0, time.UTC), true
}

// fullYear returns the last year that ends in the two digits and does not put
// the date more than 50 years into the future.
func (d date) fullYear(now time.Time) int {
	now = now.UTC()
	limit := now.AddDate(50, 0, 0)
	year := now.Year() - now.Year()%100 + 100 + d.year
	for range 2 { // from a year of the next century
		if time.Date(year, time.Month(d.month), d.day, d.hour, d.minute, d.second, 0, time.UTC).After(limit) {
			year -= 100
		}
	}
	return year
}
