package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
)

// LoadOrder has connections send requests, each the next one when the last was
// answered.
type LoadOrder struct {
	Addr        string
	Requests    [][]byte // connection i sends the one at i, modulo how many there are
	Connections int
	Length      int // of each body
	For         time.Duration
}

// Loaded is what came of it.
type Loaded struct {
	Requests []int64 // answered, by connection
	Took     time.Duration
	P50, P99 time.Duration
}

// Load is a load generator that costs little, so that the server has the
// machine.
func (s *service) Load(o LoadOrder, got *Loaded) error {
	got.Requests = make([]int64, o.Connections)
	conns := make([]net.Conn, o.Connections)
	for i := range conns {
		conn, err := net.DialTimeout("tcp", o.Addr, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conns[i] = conn
	}
	latencies := make([][]time.Duration, o.Connections)
	errs := make([]error, o.Connections)
	start := time.Now()
	end := start.Add(o.For)
	var wg sync.WaitGroup
	for i, conn := range conns {
		wg.Go(func() {
			r := bufio.NewReaderSize(conn, 16<<10)
			request := o.Requests[i%len(o.Requests)]
			for from := time.Now(); from.Before(end); {
				if _, errs[i] = conn.Write(request); errs[i] != nil {
					return
				}
				n, err := readAnswer(r)
				if err == nil && n != o.Length {
					err = fmt.Errorf("a body of %d bytes, not %d", n, o.Length)
				}
				if errs[i] = err; err != nil {
					return
				}
				now := time.Now()
				latencies[i] = append(latencies[i], now.Sub(from))
				from = now
				got.Requests[i]++
			}
		})
	}
	wg.Wait()
	got.Took = time.Since(start)
	var all []time.Duration
	for _, l := range latencies {
		all = append(all, l...)
	}
	got.P50, got.P99 = report.Median(all), report.Percentile(all, 99)
	return errors.Join(errs...)
}

// readAnswer reads a response, which must be a 200, and returns the length of
// its body.
func readAnswer(r *bufio.Reader) (int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("answered with %q", line)
	}
	length, chunked := -1, false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if chunked {
		return readChunks(r)
	}
	if length < 0 {
		return 0, errors.New("answered without a length")
	}
	_, err = r.Discard(length)
	return length, err
}

func readChunks(r *bufio.Reader) (int, error) {
	total := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return total, err
		}
		if _, err := r.Discard(int(n)); err != nil {
			return total, err
		}
		end, err := r.ReadSlice('\n')
		if err != nil || len(bytes.TrimRight(end, "\r\n")) > 0 {
			return total, errors.Join(err, io.ErrUnexpectedEOF)
		}
		if n == 0 {
			return total, nil
		}
		total += int(n)
	}
}
