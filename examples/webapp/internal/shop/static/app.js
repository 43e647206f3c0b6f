// What the pages, which are cached and the same for everybody, cannot know:
// who looks at them, and which node served them. Without this script the shop
// works all the same.
"use strict";

// paint gives a node's name its colour, by the number at its end.
function paint(el, name) {
  const n = Number((/\d+$/.exec(name) || ["0"])[0]);
  el.classList.add("c" + (((n + 5) % 6) + 1));
  el.textContent = name;
}

function show(id, fill) {
  const el = document.getElementById(id);
  fill(el);
  el.hidden = false;
}

document.querySelectorAll(".node[data-node]").forEach((el) => paint(el, el.dataset.node));

// The node and the outcome come with every response, in its Server-Timing.
// Browsers show it to scripts over HTTPS and on localhost only.
const navigation = performance.getEntriesByType("navigation")[0];
for (const entry of (navigation && navigation.serverTiming) || []) {
  if (entry.name === "node") {
    show("served", (el) => paint(el.querySelector(".node"), entry.description));
  }
  if (entry.name === "cache") {
    show("outcome", (el) => { el.textContent = "cache: " + entry.description; });
  }
}

const cluster = document.getElementById("cluster");
const time = document.getElementById("computed-at");
const arrived = performance.now();
const age = Math.max(0, Date.now() - Number(cluster.dataset.computed));
function tick() {
  const s = Math.round((age + performance.now() - arrived) / 1000);
  time.textContent = s < 2 ? "just now" : s < 120 ? s + " s ago" : Math.round(s / 60) + " min ago";
}
tick();
setInterval(tick, 1000);

// What is the visitor's own. A look at a product is noted on the way.
const viewed = document.querySelector("[data-view]");
const ask = viewed
  ? fetch("/me/viewed", { method: "POST", body: new URLSearchParams({ id: viewed.dataset.view }) })
  : fetch("/me");
ask.then((response) => response.ok ? response.json() : null).then((me) => {
  if (!me) return;
  show("me-node", (el) => paint(el.querySelector(".node"), me.node));
  if (me.user) document.getElementById("nav-user").textContent = me.user;
  const count = document.getElementById("nav-cart");
  count.textContent = me.cart;
  count.hidden = me.cart === 0;
  const others = me.viewed.filter((p) => !viewed || p.id !== viewed.dataset.view);
  if (others.length === 0) return;
  const list = document.getElementById("recent-list");
  for (const p of others) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = "/p/" + encodeURIComponent(p.id);
    link.append(picture(p), p.name);
    item.append(link);
    list.append(item);
  }
  document.getElementById("recent").hidden = false;
}).catch(() => {});

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, ...children) {
  const el = document.createElementNS(SVG, name);
  for (const key in attributes) el.setAttribute(key, attributes[key]);
  el.append(...children);
  return el;
}

function picture(p) {
  return svg("svg", { class: "picture", viewBox: "0 0 200 150", "aria-hidden": "true" },
    svg("rect", { width: 200, height: 150, fill: `hsl(${p.hue} 46% 86%)` }),
    svg("circle", { cx: 100, cy: 75, r: 66, fill: `hsl(${p.hue} 52% 78%)` }),
    svg("text", { x: 100, y: 106, "font-size": 86, "text-anchor": "middle" }, p.emoji));
}

// The page for visitors who are too fast counts down.
const wait = document.getElementById("wait");
if (wait) {
  const end = performance.now() + 1000 * Number(wait.dataset.seconds);
  const retry = document.getElementById("retry");
  retry.hidden = true;
  const timer = setInterval(() => {
    const left = Math.ceil((end - performance.now()) / 1000);
    if (left > 0) {
      wait.querySelector("b").textContent = left;
      return;
    }
    clearInterval(timer);
    wait.textContent = "The gate is open again.";
    retry.hidden = false;
  }, 200);
}
