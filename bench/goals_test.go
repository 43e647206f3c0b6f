package bench

import "github.com/herdless/herdless/bench/internal/report"

var goals []report.Goal
