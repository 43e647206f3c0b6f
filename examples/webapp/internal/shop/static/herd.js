// The herd page: sends the herd, and draws what became of every request.
"use strict";

const run = document.getElementById("run");
const go = document.getElementById("go");
const requests = document.getElementById("requests");
const uncached = document.getElementById("uncached");
const notice = document.getElementById("status");
go.disabled = false;

// Without the cache, fewer are enough to see it, and kinder to the database.
uncached.addEventListener("change", () => {
  requests.max = uncached.checked ? 120 : 1000;
  requests.value = uncached.checked ? 60 : 500;
  go.textContent = uncached.checked ? "Release it all the same" : "Release the herd";
});

run.addEventListener("submit", async (event) => {
  event.preventDefault();
  go.disabled = true;
  notice.textContent = requests.value + " requests are on their way …";
  try {
    const response = await fetch("/herd/run", {
      method: "POST",
      body: new URLSearchParams({ requests: requests.value, mode: uncached.checked ? "uncached" : "herdless" }),
    });
    const result = await response.json().catch(() => null);
    if (!response.ok || !result) throw new Error((result && result.error) || "the server answered " + response.status);
    notice.textContent = "";
    draw(result);
  } catch (error) {
    notice.textContent = "No run: " + error.message;
  } finally {
    go.disabled = false;
  }
});

const outcomes = [
  ["computed", "computed the page"],
  ["waited", "waited for that computation"],
  ["hit", "came when the page was there (hit)"],
  ["failed", "got no page"],
];

function node(tag, text, className) {
  const el = document.createElement(tag);
  if (text !== undefined) el.textContent = text;
  if (className) el.className = className;
  return el;
}

const ms = (v) => v >= 10000 ? (v / 1000).toFixed(1) + " s" : v >= 100 ? Math.round(v) + " ms" : v.toFixed(1) + " ms";
const seconds = (v) => (v / 1000).toFixed(1) + " s";
const plural = (n, one, many) => n + " " + (n === 1 ? one : many);

function draw(r) {
  const panel = document.getElementById("run-template").content.firstElementChild.cloneNode(true);
  const cached = r.mode === "herdless";
  panel.classList.toggle("without", !cached);
  panel.querySelector("h2").textContent = plural(r.computations, "computation", "computations") + " for " +
    plural(r.requests, "request", "requests") + (cached ? "" : ", without herdless");
  panel.querySelector("header .fine").textContent =
    `GET ${r.url}, all at once, through ${plural(r.nodes.length, "node", "nodes")}; ${r.at}`;

  const figures = panel.querySelector(".figures");
  const figure = (value, label, className) => {
    const li = node("li", undefined, className);
    li.append(node("b", value), label);
    figures.append(li);
  };
  figure(r.computations, "times computed", "star");
  figure(ms(r.p50), "half were served within (p50)");
  figure(ms(r.p99), "99 of 100 within (p99)");
  figure(ms(r.wall), "until the last was served");
  figure(seconds(r.computations * r.work), "of database time, " + (cached ? "instead of " + seconds(r.requests * r.work) : "all for one page"));
  figure(Object.entries(r.statuses).map(([code, n]) => `${n} × ${code}`).join(", "), "status codes");

  panel.querySelector(".plot figcaption").textContent = "Every request: in the order in which they were sent, and how long each took";
  panel.querySelector(".canvas").append(plot(r));
  legend(panel.querySelector(".legend"), r);
  bars(panel.querySelector(".bars"), r);
  computations(panel.querySelector(".sources"), r);
  document.getElementById("runs").prepend(panel);
  panel.scrollIntoView({ block: "start" });
}

// plot draws a mark for each request: across in order, up by latency, coloured
// by node, shaped by outcome; and at the right edge how the latencies spread.
function plot(r) {
  const W = 1000, H = 360, left = 68, right = 120, top = 14, bottom = 34;
  const high = niceCeiling(Math.max(...r.samples.map((s) => s.ms), 1));
  const x = (i) => left + (r.samples.length === 1 ? .5 : i / (r.samples.length - 1)) * (W - left - right - 14) + 6;
  const y = (v) => H - bottom - v / high * (H - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Latency of ${r.requests} requests; half took ${ms(r.p50)} or less` });

  for (let k = 0; k <= 4; k++) {
    const v = high * k / 4;
    picture.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: y(v), y2: y(v) }),
      svg("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, high >= 5000 ? v / 1000 + " s" : Math.round(v) + (k === 4 ? " ms" : "")));
  }
  picture.append(svg("text", { x: left, y: H - 10 }, "first request"),
    svg("text", { x: W - right, y: H - 10, "text-anchor": "end" }, "last request"));

  const stems = svg("g", {}), waiting = svg("g", {}), front = svg("g", {});
  r.samples.forEach((s, i) => {
    const colour = colourOf(r.nodes[s.node]);
    stems.append(svg("line", { class: "stem " + colour, x1: x(i), x2: x(i), y1: y(0), y2: y(s.ms) }));
    const el = mark(s.outcome, x(i), y(s.ms));
    el.classList.add("mark", s.outcome);
    if (colour) el.classList.add(colour);
    el.style.animationDelay = Math.round(i / r.samples.length * 500) + "ms";
    el.append(svg("title", {}, `request ${i + 1}: ${r.nodes[s.node] || "no node"}, ${s.outcome}, ${ms(s.ms)}`));
    (s.outcome === "computed" ? front : waiting).append(el);
    if (s.outcome === "computed" && r.computations === 1) {
      const end = x(i) > W - right - 260;
      front.append(svg("text", { class: "note", x: x(i) + (end ? -14 : 14), y: Math.min(y(s.ms) + 34, H - bottom - 8), "text-anchor": end ? "end" : "start" },
        `the one computation, on ${r.nodes[s.node]}`));
    }
  });
  if (r.work > 0 && r.work < high) {
    front.append(svg("line", { class: "work", x1: left, x2: W - right, y1: y(r.work), y2: y(r.work) }),
      svg("text", { class: "note", x: W - right - 6, y: y(r.work) + 17, "text-anchor": "end" }, `the computation alone: ${ms(r.work)}`));
  }
  picture.append(stems, svg("line", { class: "median", x1: left, x2: W - right, y1: y(r.p50), y2: y(r.p50) }), waiting, front);
  spread(picture, r, y, high, W - right + 14, right - 18);
  return picture;
}

// spread draws the distribution of the latencies, a bar for each node.
function spread(picture, r, y, high, x0, width) {
  const bins = 40, count = Array.from({ length: bins }, () => new Array(r.nodes.length).fill(0));
  for (const s of r.samples) {
    if (s.node >= 0) count[Math.min(bins - 1, Math.floor(s.ms / high * bins))][s.node]++;
  }
  const most = Math.max(1, ...count.map((nodes) => nodes.reduce((a, b) => a + b, 0)));
  count.forEach((nodes, bin) => {
    let x = x0;
    nodes.forEach((n, i) => {
      if (n === 0) return;
      const w = Math.max(1.5, n / most * width), h = y(0) - y(high / bins);
      picture.append(svg("rect", { class: "spread " + colourOf(r.nodes[i]), x, y: y(high * (bin + 1) / bins) + .5, width: w, height: h - 1 }));
      x += w;
    });
  });
  picture.append(svg("text", { x: x0, y: y(0) + 24 }, "spread"));
}

function mark(outcome, x, y) {
  switch (outcome) {
  case "computed": {
    let points = "";
    for (let k = 0; k < 10; k++) {
      const a = Math.PI * (k / 5 - .5), d = k % 2 ? 4.6 : 11;
      points += `${x + d * Math.cos(a)},${y + d * Math.sin(a)} `;
    }
    return svg("polygon", { points });
  }
  case "waited":
    return svg("circle", { cx: x, cy: y, r: 4.4 });
  case "hit":
    return svg("path", { d: `M${x} ${y - 5}l5 9h-10z` });
  default:
    return svg("path", { d: `M${x - 5} ${y - 5}l10 10m0-10l-10 10` });
  }
}

// niceCeiling returns the end of an axis: a round number, a little above v.
function niceCeiling(v) {
  const unit = 10 ** Math.floor(Math.log10(v));
  return [1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12].map((k) => k * unit).find((k) => k >= v * 1.04);
}

function colourOf(name) {
  if (!name) return "";
  const el = node("i");
  paint(el, name);
  return el.className;
}

function legend(list, r) {
  for (const name of r.nodes) {
    const li = node("li"), label = node("b", "", "node");
    paint(label, name);
    li.append(label);
    list.append(li);
  }
  for (const [outcome, label] of outcomes) {
    if (!r.samples.some((s) => s.outcome === outcome)) continue;
    const el = mark(outcome, 9, 9), li = node("li");
    el.classList.add("mark", outcome);
    li.append(svg("svg", { viewBox: "-3 -3 24 24" }, el), label);
    list.append(li);
  }
}

function bars(table, r) {
  const total = Math.max(...r.served.map((s) => outcomes.reduce((sum, [o]) => sum + (s[o] || 0), 0)), 1);
  for (const s of r.served) {
    const label = node("b", "", "node"), track = node("div", undefined, "track " + colourOf(s.node));
    paint(label, s.node);
    for (const [outcome, text] of outcomes) {
      if (!s[outcome]) continue;
      const bar = node("i", s[outcome] / total > .06 ? s[outcome] : "", outcome);
      bar.style.width = s[outcome] / total * 100 + "%";
      bar.title = `${s[outcome]} ${text}`;
      track.append(bar);
    }
    table.append(label, track);
  }
}

function computations(box, r) {
  const table = node("table"), most = 6;
  for (const c of r.computed.slice(0, most)) {
    const row = table.insertRow(), name = node("b", "", "node");
    paint(name, c.node);
    row.insertCell().append(name);
    row.insertCell().append(node("code", "#" + c.id));
    row.insertCell().append("served " + plural(c.served, "request", "requests"));
  }
  box.append(table);
  if (r.computed.length > most) {
    box.append(node("p", `and ${r.computed.length - most} more of the same page`, "fine"));
  }
}
