package redislock

// Tag is what stands for a name in its keys.
var Tag = tag

// MaxUnanswered is how many commands a server of a quorum may leave unanswered.
const MaxUnanswered = maxUnanswered

// Unanswered returns how many commands server i of q has under way.
func Unanswered(q *Quorum, i int) int { return len(q.servers[i].unanswered) }
