package shop

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

// Templates renders the shop's pages. It is safe for concurrent use.
type Templates struct {
	set *template.Template
}

// ParseTemplates parses the pages that are embedded in the program.
func ParseTemplates() (*Templates, error) {
	version, err := staticVersion()
	if err != nil {
		return nil, err
	}
	set, err := template.New("").Funcs(template.FuncMap{
		"asset":    func(name string) string { return "/static/" + name + "?v=" + version },
		"money":    money,
		"duration": func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + " ms" },
		"shelf":    shelfURL,
		"device":   device,
	}).ParseFS(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("shop: the pages: %w", err)
	}
	return &Templates{set}, nil
}

// Render renders a page as a whole, so that a fault never leaves half of one.
func (t *Templates) Render(name string, view any) ([]byte, error) {
	var b bytes.Buffer
	if err := t.set.ExecuteTemplate(&b, name, view); err != nil {
		return nil, fmt.Errorf("shop: the page %q: %w", name, err)
	}
	return b.Bytes(), nil
}

// Static serves the style sheet and the scripts below /static/.
func Static() http.Handler {
	files := http.FileServerFS(staticFiles)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The pages name the files with their digest.
		w.Header().Set("Cache-Control", "public, max-age=604800")
		files.ServeHTTP(w, r)
	})
}

// staticVersion is a digest of all static files.
func staticVersion() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(staticFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := staticFiles.ReadFile(path)
		_, _ = fmt.Fprintf(h, "%s %d ", path, len(b))
		h.Write(b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:10], err
}

func money(cents int) string { return fmt.Sprintf("€ %d.%02d", cents/100, cents%100) }

// shelfURL returns the address of a page of a category, always written the
// same way, so that it is one page in the cache.
func shelfURL(category string, number int) string {
	q := url.Values{}
	if category != "" {
		q.Set("category", category)
	}
	if number > 1 {
		q.Set("page", strconv.Itoa(number))
	}
	if len(q) == 0 {
		return "/"
	}
	return "/?" + q.Encode()
}

// device names the browser of a User-Agent well enough for its user to know it
// again.
func device(agent string) string {
	// Each browser also claims to be those that follow it.
	for _, b := range []struct{ sign, name string }{
		{"Edg/", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"}, {"curl/", "curl"},
	} {
		if strings.Contains(agent, b.sign) {
			return b.name
		}
	}
	if name, _, ok := strings.Cut(agent, "/"); ok {
		return clip(name, 30)
	}
	return "a browser"
}
