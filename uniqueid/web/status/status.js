// The status page: it asks for status.json, shows it, and takes IDs when it is told to.
"use strict";

const EVERY = 2000; // milliseconds, the service's own interval
const $ = (id) => document.getElementById(id);
const here = new URL(".", location.href);
const WORDS = {
  database: "The database does not answer",
  schema: "The tables do not fit this release",
  committer: "The thread that commits has ended",
  counters: "A counter went back",
};

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+(?!\d))/g, " ");
}

function short(value) {
  if (value >= 100 || Number.isInteger(value)) return grouped(Math.round(value));
  return String(Number(value.toPrecision(2)));
}

function duration(seconds) {
  if (seconds < 1) return `${short(seconds * 1000)} ms`;
  if (seconds < 120) return `${short(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

function percent(share) {
  if (share === 0) return "0 %";
  if (share < 0.00001) return "under 0.001 %";
  return `${Number((share * 100).toPrecision(3))} %`;
}

// -- what the service says ---------------------------------------------------------------------

function showHealth(state, text, problems) {
  const health = $("health");
  // A screen reader speaks what changes here, and only that.
  if (health.textContent !== text) health.textContent = text;
  health.dataset.state = state;
  document.title = `${state === "good" ? "" : "! "}UniqueID: ${text}`;
  $("problems").replaceChildren(...problems.map((problem) => element("li", problem)));
}

function showFacts(status) {
  const last = (column) => {
    const values = status.history[column];
    return values.length ? values[values.length - 1] : null;
  };
  const facts = [
    ["Requests/s", short(last("requests") ?? 0)],
    ["IDs/s", short(last("ids") ?? 0)],
    ["Latency, p99", last("p99") === null ? "-" : duration(last("p99"))],
    ["Waiting", grouped(status.waiting)],
    ["Fullest counter", percent(Math.max(0, ...status.counters.map((counter) => counter.used)))],
    ["Counters gone back", grouped(status.regressions)],
    ["Database", `${status.database.kind}, ${status.database.host}`],
    ["Version", status.version],
    ["Up for", duration(status.uptime_seconds)],
  ];
  $("facts").replaceChildren(...facts.map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    return pair;
  }));
}

function showCounters(status) {
  $("counters").tBodies[0].replaceChildren(...status.counters.map((counter) => {
    const row = element("tr");
    const used = element("td", percent(counter.used));
    used.append(element("meter", "", { min: 0, max: 1, high: 0.9, optimum: 0, value: counter.used, "aria-hidden": "true" }));
    row.append(element("td", counter.mode), element("td", grouped(counter.next_id)),
      element("td", grouped(counter.ids)), element("td", short(counter.rate)), used);
    return row;
  }));
  const more = status.counters_total - status.counters.length;
  $("counters-note").textContent = status.counters.length === 0
    ? "There is no counter yet: the first request for a mode makes one."
    : more > 0 ? `And ${grouped(more)} more in the database.` : "";
  $("modes").replaceChildren(...status.counters.slice(0, 50).map((counter) => element("option", undefined, { value: counter.mode })));
}

// -- plots -------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 400, HEIGHT = 100, LEFT = 46, TOP = 8, BOTTOM = 16;
const PLOTS = [
  { title: "Requests/s", columns: ["requests"], text: short },
  { title: "IDs/s", columns: ["ids"], text: short },
  { title: "Latency", columns: ["p50", "p95", "p99"], text: duration },
  { title: "Requests in a transaction", columns: ["batch"], text: short },
];

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function plot({ title, columns, text }, history) {
  const figure = element("figure");
  const caption = element("figcaption");
  caption.append(element("b", title));
  const all = columns.flatMap((column) => history[column]).filter((value) => value !== null);
  const top = Math.max(...all, 0) || 1;
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const times = history.time;
  const end = times.length ? times[times.length - 1] : 0;
  const x = (time) => LEFT + (WIDTH - LEFT) * (1 - (end - time) / 300);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  for (const value of [0, top / 2, top]) {
    svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }));
  }
  svg.append(drawn("text", { x: 0, y: y(top) + 8 }, text(top)), drawn("text", { x: 0, y: y(0) }, "0"));
  svg.append(drawn("text", { x: LEFT, y: HEIGHT - 3 }, "5 min ago"), drawn("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, "now"));
  const said = [];
  columns.forEach((column, number) => {
    let path = "", pen = "M";
    history[column].forEach((value, index) => {
      if (value === null) { pen = "M"; return; }
      path += `${pen}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`;
      // A lone value is a point.
      if (pen === "M") path += "h0.5";
      pen = "L";
    });
    svg.append(drawn("path", { class: `c${number}`, d: path || "M0 0" }));
    const values = history[column];
    const last = values.length ? values[values.length - 1] : null;
    const label = `${columns.length > 1 ? `${column} ` : ""}${last === null ? "-" : text(last)}`;
    caption.append(element("span", label, { class: `c${number}` }));
    said.push(label);
  });
  svg.setAttribute("aria-label", `${title}, now: ${said.join(", ")}`);
  figure.append(caption, svg);
  return figure;
}

// -- asking ------------------------------------------------------------------------------------

function stored(name) {
  try { return sessionStorage.getItem(name) || ""; } catch { return ""; }
}

function store(name, value) {
  try { sessionStorage.setItem(name, value); } catch { /* it is asked for again */ }
}

function authorised(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let statusToken = stored("status-token");
let timer;

async function refresh() {
  clearTimeout(timer);
  try {
    const response = await fetch("status.json", { headers: authorised(statusToken), cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (response.status === 401) {
      $("token-form").hidden = false;
      showHealth("unknown", "A token is needed", []);
      if (statusToken) $("token-hint").textContent = "This token does not count here.";
      return; // asked again with the next token
    }
    if (!response.ok) throw new Error(`status.json answers ${response.status}`);
    const status = await response.json();
    $("token-form").hidden = true;
    const problems = Object.entries(status.checks).filter(([, said]) => said !== "ok")
      .map(([name, said]) => `${WORDS[name] || name}: ${said}`);
    for (const { variable, value, needed, remedy } of status.durability_problems) {
      problems.push(`The database server can lose committed transactions: ${variable} is ${value}, needed is ${needed}: ${remedy}`);
    }
    if (status.ready) showHealth("good", "Ready: hands out IDs", problems);
    else showHealth("bad", "Not ready: refuses requests", problems);
    showFacts(status);
    $("plots").replaceChildren(...PLOTS.map((each) => plot(each, status.history)));
    showCounters(status);
    $("updated").textContent = `As of ${status.time.replace("T", " ").replace("Z", " UTC")}, every 2 seconds.`;
  } catch (error) {
    showHealth("bad", "No answer from the service", [`${error.message}. What is below is old.`]);
  }
  if (!document.hidden) timer = setTimeout(refresh, EVERY);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  statusToken = $("token").value.trim();
  store("status-token", statusToken);
  refresh();
});

// -- taking IDs --------------------------------------------------------------------------------

function compose() {
  const mode = $("mode").value, range = $("range").value;
  const ids = `${range === "1" ? "ID" : "IDs"} of ${JSON.stringify(mode)}`;
  const token = $("take-token-field").hidden ? "" : ' -H "Authorization: Bearer $TOKEN"';
  const target = new URL(`getid?range=${encodeURIComponent(range)}&mode=${encodeURIComponent(mode)}`, here);
  $("curl").textContent = `curl -X POST${token} '${target.href.replaceAll("'", "%27")}'`;
  const extra = token ? ", token=token" : "";
  $("python").textContent = `uniqueid.client.Client(${JSON.stringify(here.href)}${extra}).get_range(${JSON.stringify(mode)}, ${range})`;
  $("take-button").textContent = `Take ${grouped(range)} ${ids} now`;
  $("take-button").disabled = !$("take").checkValidity();
}

$("take").addEventListener("input", compose);
// Enter in a field is no explicit click.
$("take").addEventListener("submit", (event) => event.preventDefault());
$("take-button").addEventListener("click", async () => {
  const button = $("take-button");
  button.disabled = true;
  $("taken").textContent = "";
  const body = new URLSearchParams({ range: $("range").value, mode: $("mode").value });
  try {
    const response = await fetch("getid", { method: "POST", body, headers: authorised($("take-token").value.trim()) });
    const text = await response.text();
    // From the text: JavaScript's numbers are exact up to 2**53 only.
    const digits = (name) => grouped(new RegExp(`"${name}": *(-?\\d+)`).exec(text)[1]);
    if (response.status === 401) $("take-token-field").hidden = false;
    $("taken").textContent = response.ok
      ? `Taken: ${digits("startIndex")} to ${digits("endIndex")} of ${$("mode").value}`
      : `Not taken: ${JSON.parse(text).detail}`;
  } catch (error) {
    $("taken").textContent = `No answer: ${error.message}. The IDs may be taken; nobody gets them.`;
  }
  compose();
  refresh();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($(button.dataset.copy).textContent);
      button.textContent = "Copied";
    } catch {
      // Without TLS there is no clipboard: it is selected instead.
      getSelection().selectAllChildren($(button.dataset.copy));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

compose();
refresh();
