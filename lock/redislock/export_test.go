package redislock

// Tag is what stands for a name in its keys.
var Tag = tag

// MaxUnanswered is how many commands a server of a quorum may leave unanswered.
const MaxUnanswered = maxUnanswered

// Unanswered returns how many commands server i of q has under way.
func Unanswered(q *Quorum, i int) int { return len(q.servers[i].unanswered) }

// MaxOwed is how many releases are kept for a server of a quorum.
const MaxOwed = maxOwed

// Owed returns how many releases server i of q is owed.
func Owed(q *Quorum, i int) int {
	s := q.servers[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.owed)
}
