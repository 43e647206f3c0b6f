package main

import (
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What docker-compose.yml says is what the program, haproxy.cfg and the
// Dockerfile understand.
func TestCompose(t *testing.T) {
	type service struct {
		Image       string
		Build       struct{ Context, Dockerfile string }
		Environment map[string]string
		DependsOn   any `yaml:"depends_on"`
		Healthcheck any
		StopGrace   string `yaml:"stop_grace_period"`
		Restart     string
		Volumes     []string
		Networks    map[string]struct {
			Address string `yaml:"ipv4_address"`
		}
	}
	var compose struct {
		Services map[string]service
		Volumes  map[string]any
	}
	if err := yaml.Unmarshal(file(t, "docker-compose.yml"), &compose); err != nil {
		t.Fatal(err)
	}
	want := []string{"app-1", "app-2", "app-3", "lb", "redis-1", "redis-2", "sentinel-1", "sentinel-2", "sentinel-3"}
	if got := slices.Sorted(maps.Keys(compose.Services)); !slices.Equal(got, want) {
		t.Fatalf("services: got %v, want %v", got, want)
	}
	address := func(name string) string { return compose.Services[name].Networks["shop"].Address }
	haproxy := string(file(t, "haproxy.cfg"))
	routers := map[string]bool{}
	for name, s := range compose.Services {
		if s.Restart != "unless-stopped" || net.ParseIP(address(name)) == nil {
			t.Errorf("%s: restart policy %q, address %q", name, s.Restart, address(name))
		}
		names := []string{}
		switch list := s.DependsOn.(type) {
		case map[string]any:
			names = slices.Collect(maps.Keys(list))
		case []any:
			for _, n := range list {
				names = append(names, n.(string))
			}
		}
		for _, n := range names {
			if _, ok := compose.Services[n]; !ok {
				t.Errorf("%s depends on %s, which does not exist", name, n)
			}
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			_, named := compose.Volumes[source]
			if _, err := os.Stat(source); !named && err != nil {
				t.Errorf("%s: volume %q: %v", name, v, err)
			}
		}
		if !strings.HasPrefix(name, "app-") {
			if !regexp.MustCompile(`:\d+\.\d+\.\d+-alpine$`).MatchString(s.Image) {
				t.Errorf("%s: the image %q is not pinned", name, s.Image)
			}
			continue
		}

		// The program takes the environment as it is.
		c, err := parse(nil, func(key string) (string, bool) { v, ok := s.Environment[key]; return v, ok }, io.Discard)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for key := range s.Environment {
			if !slices.Contains(slices.Collect(maps.Values(variables)), key) {
				t.Errorf("%s: the program does not know %s", name, key)
			}
		}
		routers[c.router] = true
		if len(c.trusted) != 1 || c.trusted[0].String() != address("lb")+"/32" || c.herdTarget != "http://"+address("lb")+":8080" {
			t.Errorf("%s: trusts %v and sends herds to %q, want the load balancer %s", name, c.trusted, c.herdTarget, address("lb"))
		}
		for _, sentinel := range []string{"sentinel-1", "sentinel-2", "sentinel-3"} {
			if !strings.Contains(c.redis, address(sentinel)+":26379") {
				t.Errorf("%s: %q does not name %s", name, c.redis, sentinel)
			}
		}
		if !strings.Contains(haproxy, "server "+c.name+" "+address(name)+":8080") {
			t.Errorf("%s: haproxy.cfg has no server %s %s:8080", name, c.name, address(name))
		}
		if s.StopGrace != "20s" || c.drainDelay+drainLimit >= 20e9 {
			t.Errorf("%s: may take %v to end, but is killed after %s", name, c.drainDelay+drainLimit, s.StopGrace)
		}
		if _, err := os.Stat(s.Build.Context + "/" + s.Build.Dockerfile); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !routers[routerGin] || !routers[routerNetHTTP] {
		t.Errorf("the nodes have the routers %v, want both", routers)
	}
}

func TestDockerfile(t *testing.T) {
	text := string(file(t, "Dockerfile"))
	for _, want := range []string{
		`FROM golang:1\.26\.\d+-alpine AS build`, `CGO_ENABLED=0`, `(?m)^USER 65532:65532$`, `-healthcheck`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the Dockerfile has no %s", want)
		}
	}
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
