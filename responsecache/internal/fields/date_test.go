package fields_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var now = time.Date(2026, time.June, 15, 12, 0, 0, 0, time.UTC)

// RFC 9110 §5.6.7.
func TestParseDate(t *testing.T) {
	example := time.Date(1994, time.November, 6, 8, 49, 37, 0, time.UTC)
	tests := []struct {
		name, value string
		want        time.Time // zero: not a date
	}{
		{"IMF-fixdate", "Sun, 06 Nov 1994 08:49:37 GMT", example},
		{"rfc850-date", "Sunday, 06-Nov-94 08:49:37 GMT", example},
		{"asctime-date", "Sun Nov  6 08:49:37 1994", example},
		{"asctime-date with two digits", "Sun Nov 06 08:49:37 1994", example},
		{"asctime-date late in a month", "Sun Nov 16 08:49:37 1994", example.AddDate(0, 0, 10)},
		{"another weekday than that of the date", "Mon, 06 Nov 1994 08:49:37 GMT", example},
		{"leap second", "Sat, 31 Dec 2016 23:59:60 GMT", time.Date(2017, time.January, 1, 0, 0, 0, 0, time.UTC)},
		{"leap day", "Thu, 29 Feb 2024 00:00:00 GMT", time.Date(2024, time.February, 29, 0, 0, 0, 0, time.UTC)},
		{"no leap day", "Wed, 29 Feb 2023 00:00:00 GMT", time.Time{}},
		{"two digits, to come", "Monday, 06-Nov-70 08:49:37 GMT", example.AddDate(76, 0, 0)},
		{"two digits, 50 years to the second", "Monday, 15-Jun-76 12:00:00 GMT", now.AddDate(50, 0, 0)},
		{"two digits, a second more", "Monday, 15-Jun-76 12:00:01 GMT", now.AddDate(-50, 0, 0).Add(time.Second)},
		{"two digits, this year", "Monday, 15-Jun-26 12:00:01 GMT", now.Add(time.Second)},
		{"two digits, leap day of 2000", "Monday, 29-Feb-00 12:00:00 GMT", time.Date(2000, time.February, 29, 12, 0, 0, 0, time.UTC)},
		{"empty", "", time.Time{}},
		{"zero", "0", time.Time{}},
		{"another zone", "Sun, 06 Nov 1994 08:49:37 UTC", time.Time{}},
		{"offset", "Sun, 06 Nov 1994 08:49:37 +0000", time.Time{}},
		{"no zone", "Sun, 06 Nov 1994 08:49:37", time.Time{}},
		{"asctime-date with a zone", "Sun Nov  6 08:49:37 1994 GMT", time.Time{}},
		{"lower-case zone", "Sun, 06 Nov 1994 08:49:37 gmt", time.Date(1994, time.November, 6, 8, 49, 37, 0, time.UTC)},
		{"lower-case month", "Sun, 06 nov 1994 08:49:37 GMT", time.Date(1994, time.November, 6, 8, 49, 37, 0, time.UTC)},
		{"upper-case weekday", "SUN, 06 Nov 1994 08:49:37 GMT", time.Date(1994, time.November, 6, 8, 49, 37, 0, time.UTC)},
		{"no weekday", "06 Nov 1994 08:49:37 GMT", time.Time{}},
		{"long weekday in IMF-fixdate", "Sunday, 06 Nov 1994 08:49:37 GMT", time.Time{}},
		{"short weekday in rfc850-date", "Sun, 06-Nov-94 08:49:37 GMT", time.Time{}},
		{"unknown weekday", "Foo, 06 Nov 1994 08:49:37 GMT", time.Time{}},
		{"single-digit day", "Sun, 6 Nov 1994 08:49:37 GMT", time.Time{}},
		{"space instead of a digit", "Sun,  6 Nov 1994 08:49:37 GMT", time.Time{}},
		{"two spaces", "Sun,  06 Nov 1994 08:49:37 GMT", time.Time{}},
		{"no space", "Sun,06 Nov 1994 08:49:37 GMT", time.Time{}},
		{"two spaces before the zone", "Sun, 06 Nov 1994 08:49:37  GMT", time.Time{}},
		{"two-digit year", "Sun, 06 Nov 94 08:49:37 GMT", time.Time{}},
		{"four-digit year in rfc850-date", "Sunday, 06-Nov-1994 08:49:37 GMT", time.Time{}},
		{"trailing bytes", "Sun, 06 Nov 1994 08:49:37 GMT; x", time.Time{}},
		{"leading space", " Sun, 06 Nov 1994 08:49:37 GMT", time.Time{}},
		{"dashes for spaces", "Sun, 06-Nov-1994 08:49:37 GMT", time.Time{}},
		{"dots for colons", "Sun, 06 Nov 1994 08.49.37 GMT", time.Time{}},
		{"fraction of a second", "Sun, 06 Nov 1994 08:49:37.5 GMT", time.Time{}},
		{"sign", "Sun, 06 Nov 1994 08:49:+7 GMT", time.Time{}},
		{"day 0", "Sun, 00 Nov 1994 08:49:37 GMT", time.Time{}},
		{"day 31 of November", "Sun, 31 Nov 1994 08:49:37 GMT", time.Time{}},
		{"hour 24", "Sun, 06 Nov 1994 24:00:00 GMT", time.Time{}},
		{"minute 60", "Sun, 06 Nov 1994 08:60:37 GMT", time.Time{}},
		{"second 61", "Sun, 06 Nov 1994 08:49:61 GMT", time.Time{}},
		{"no month", "Sun, 06 Nox 1994 08:49:37 GMT", time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := fields.ParseDate(tt.value, now)
			assert.Equal(t, !tt.want.IsZero(), ok)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestDatesThatWeSendAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		date := time.Unix(rapid.Int64Range(-62135596800, 253402300799).Draw(t, "seconds"), 0).UTC()
		for _, layout := range []string{http.TimeFormat, time.ANSIC} {
			got, ok := fields.ParseDate(date.Format(layout), now)
			require.True(t, ok)
			assert.Equal(t, date, got)
		}
	})
}

func TestTwoDigitYearsAreNeverFarAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "now"), 0).UTC()
		// Leap days are left out: what is 50 years from one is not clear.
		date := time.Date(2000+rapid.IntRange(0, 99).Draw(t, "year"), time.Month(rapid.IntRange(1, 12).Draw(t, "month")),
			rapid.IntRange(1, 28).Draw(t, "day"), 1, 2, 3, 0, time.UTC)
		got, ok := fields.ParseDate(date.Format("Monday, 02-Jan-06 15:04:05 GMT"), now)
		require.True(t, ok)
		assert.Equal(t, date.Format("02-Jan-06 15:04:05"), got.Format("02-Jan-06 15:04:05"))
		assert.False(t, got.After(now.AddDate(50, 0, 0)))
		assert.True(t, got.AddDate(100, 0, 0).After(now.AddDate(50, 0, 0)))
	})
}

func FuzzParseDate(f *testing.F) {
	for _, seed := range []string{
		"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
		"Sat, 31 Dec 2016 23:59:60 GMT", "Sun, 06 nov 1994 08:49:37 GMT", "0", "", ", GMT", "Sun, 29 Feb 2100 00:00:00 GMT",
	} {
		f.Add(seed, int64(0))
	}
	f.Fuzz(func(t *testing.T, s string, seconds int64) {
		got, ok := fields.ParseDate(s, time.Unix(seconds, 0))
		if !ok {
			assert.True(t, got.IsZero())
			return
		}
		again, ok := fields.ParseDate(got.Format(http.TimeFormat), now)
		assert.True(t, ok)
		assert.Equal(t, got, again)
		// What is strictly a date is one for the lenient parser, which wants GMT in upper case.
		if strings.HasSuffix(strings.ToUpper(s), "GMT") {
			s = s[:len(s)-3] + "GMT"
		}
		if lenient, err := http.ParseTime(s); !strings.Contains(s, ":60") && assert.NoError(t, err) && !strings.Contains(s, "-") {
			assert.True(t, lenient.Equal(got))
		}
	})
}
