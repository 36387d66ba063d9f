// The status page: polls status.json, shows it, and allocates IDs on a click of its button only.
"use strict";

const POLL_INTERVAL = 2000; // milliseconds, the service's own sampling interval
const TIMEOUT = 5000; // milliseconds for one poll
const INSTANCE_TIMEOUT = 30000; // milliseconds without an answer, after which another instance is shown
const MAX_ROWS = 100;
const MAX_ID = 9223372036854775806n; // 2**63 - 2
const NEARLY_FULL = 0.9; // share of a counter's space
const MAX_WARNINGS = 5; // counters that are named one by one
const WORDS = {
  database: "The database does not answer",
  schema: "The tables do not match this release",
  committer: "The committer thread has ended",
  counters: "Counter regression",
  fence: "The fence file cannot be used",
};

const $ = (id) => document.getElementById(id);
const here = new URL(".", location.href);

function element(name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Nodes whose text stays are left alone: a selection in them survives.
function setText(node, text) {
  if (node.textContent === text) return;
  if (!/^\d{4,}$/.test(text)) { node.textContent = text; return; }
  // CSS puts the gaps between the groups: digits alone are copied.
  const groups = text.match(/\d{1,3}(?=(\d{3})*$)/g);
  node.replaceChildren(...groups.map((group) => element("span", group, { class: "group" })));
}

function short(value) {
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : String(Number(value.toPrecision(2)));
}

const compact = (value) => value < 1000 ? short(value) : new Intl.NumberFormat("en", { notation: "compact" }).format(value);

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
  if (share > 0.999) return share < 1 ? "over 99.9 %" : "100 %";
  return `${Number((share * 100).toPrecision(3))} %`;
}

const last = (values) => values.length ? values[values.length - 1] : null;
const utc = (date) => `${date.toISOString().slice(11, 19)} UTC`;

// -- health and figures ------------------------------------------------------------------------

function showHealth(state, text, problems = []) {
  // A screen reader announces changes of this text, and of nothing else.
  setText($("health"), text);
  $("health").dataset.state = state;
  document.title = `${state === "good" ? "" : "! "}UniqueID ${$("instance").textContent}: ${text}`;
  const list = $("problems");
  while (list.children.length > problems.length) list.lastChild.remove();
  problems.forEach((problem, number) => {
    setText(list.children[number] || list.appendChild(element("li")), problem);
  });
  list.dataset.state = state;
}

function problemsOf(status) {
  const problems = Object.entries(status.checks).filter(([, reason]) => reason !== "ok")
    .map(([name, reason]) => `${WORDS[name] || name}: ${reason}`);
  const full = status.counters.filter((counter) => counter.used > NEARLY_FULL)
    .sort((one, other) => other.used - one.used);
  for (const { mode, next_id: next, used } of full.slice(0, MAX_WARNINGS)) {
    const left = MAX_ID - BigInt(next) + 1n;
    problems.push(left > 0n ? `The counter ${mode} is ${percent(used)} full: ${left} IDs are left`
      : `The counter ${mode} is exhausted: its requests are rejected`);
  }
  if (full.length > MAX_WARNINGS) problems.push(`${full.length - MAX_WARNINGS} more counters are above 90 %`);
  for (const { variable, value, needed, remedy } of status.durability_problems) {
    problems.push(`The database server can lose committed transactions: ${variable} is ${value}, needed is ${needed}: ${remedy}`);
  }
  return problems;
}

function showFacts(status) {
  const { history } = status;
  const p99 = last(history.p99);
  const facts = {
    "Requests/s": short(last(history.requests) ?? 0),
    "IDs/s": short(last(history.ids) ?? 0),
    "Latency, p99": p99 === null ? "-" : duration(p99),
    "Waiting": String(status.waiting),
    "Fullest counter": percent(Math.max(0, ...status.counters.map((counter) => counter.used))),
    "Counter regressions": String(status.regressions),
    "Database": `${status.database.kind}, ${status.database.host}`,
    "Version": status.version,
    "Up for": duration(status.uptime_seconds),
  };
  const list = $("facts");
  Object.entries(facts).forEach(([name, value], number) => {
    if (!list.children[number]) {
      list.append(element("div"));
      list.lastChild.append(element("dt", name), element("dd"));
    }
    setText(list.children[number].lastChild, value);
  });
}

// -- counters ----------------------------------------------------------------------------------

const rows = new Map(); // by mode
const HEADERS = [...$("counters").tHead.rows[0].cells].map((cell) => cell.textContent);
const order = { column: "mode", descending: false };
let counters = [], countersTotal = 0;

function compare(one, other) {
  if (order.column === "mode") return one.mode < other.mode ? -1 : 1;
  // The share used is rounded, and has the same order.
  if (order.column === "next_id" || order.column === "used") return Number(BigInt(one.next_id) - BigInt(other.next_id));
  return one[order.column] - other[order.column];
}

function rowOf(mode) {
  const row = element("tr");
  // A narrow screen shows the column's name in each cell.
  row.append(element("th", mode, { scope: "row" }), ...HEADERS.slice(1).map((name) => element("td", "", { "data-label": name })));
  row.lastChild.append(element("span"), element("meter", "", { min: 0, max: 1, high: NEARLY_FULL, optimum: 0, "aria-hidden": "true" }));
  rows.set(mode, row);
  return row;
}

function showCounters() {
  const filter = $("filter").value.trim().toLowerCase();
  const found = counters.filter((counter) => counter.mode.toLowerCase().includes(filter)).sort(compare);
  if (order.descending) found.reverse();
  const shown = found.slice(0, MAX_ROWS);
  const body = $("counters").tBodies[0];
  const selection = getSelection();
  const keep = !selection.isCollapsed && body.contains(selection.anchorNode);
  let next = body.firstChild;
  for (const counter of shown) {
    const row = rows.get(counter.mode) || rowOf(counter.mode);
    const [, nextId, ids, rate, used] = row.children;
    setText(nextId, counter.next_id);
    setText(ids, String(counter.ids));
    setText(rate, short(counter.rate));
    setText(used.firstChild, percent(counter.used));
    used.lastChild.value = counter.used;
    if (row === next) next = next.nextSibling;
    // A selection would be lost with the place of its row.
    else if (!keep || !row.parentNode) body.insertBefore(row, next);
  }
  const modes = new Set(shown.map((counter) => counter.mode));
  for (const [mode, row] of rows) {
    if (modes.has(mode) || keep) continue;
    row.remove();
    rows.delete(mode);
  }
  const rest = found.length - shown.length;
  const notSent = countersTotal - counters.length;
  setText($("counters-note"), [
    countersTotal === 0 ? "There is no counter yet: the first request for a mode creates it." : "",
    counters.length && !found.length ? "No mode matches the filter." : "",
    rest > 0 ? `And ${rest} more: filter or sort to see them.` : "",
    notSent > 0 ? `The database has ${countersTotal} counters; filter and sort apply to the ${counters.length} fullest and busiest.` : "",
  ].filter(Boolean).join(" "));
  $("filter-field").hidden = countersTotal < 2;
}

function showModes() {
  const modes = counters.slice(0, 50).map((counter) => counter.mode);
  const options = [...$("modes").children].map((option) => option.value);
  if (modes.join("\n") === options.join("\n")) return;
  $("modes").replaceChildren(...modes.map((mode) => element("option", undefined, { value: mode })));
}

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const column = button.dataset.sort;
    // Numbers begin with the highest.
    order.descending = order.column === column ? !order.descending : column !== "mode";
    order.column = column;
    for (const cell of $("counters").tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    button.parentNode.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    getSelection().removeAllRanges();
    showCounters();
  });
}
$("filter").addEventListener("input", () => { getSelection().removeAllRanges(); showCounters(); });

// -- plots -------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420, HEIGHT = 120, LEFT = 46, TOP = 10, BOTTOM = 20;
const PLOTS = [
  { title: "Requests/s", columns: ["requests"], text: compact },
  { title: "IDs/s", columns: ["ids"], text: compact },
  { title: "Latency", columns: ["p50", "p95", "p99"], text: duration },
  { title: "Requests in a transaction", columns: ["batch"], text: compact },
];

function drawn(parent, name, attributes, text) {
  const node = parent.appendChild(document.createElementNS(SVG, name));
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function newPlot({ title, columns }) {
  const figure = element("figure");
  const caption = element("figcaption");
  caption.append(element("b", title), ...columns.map((_, number) => element("span", "", { class: `c${number}` })));
  figure.append(caption);
  drawn(figure, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  $("plots").append(figure);
  return figure;
}

function showPlot(figure, { title, columns, text: format }, history) {
  const values = columns.flatMap((column) => history[column]);
  const top = Math.max(...values, 0) || 1; // null counts as 0
  const svg = figure.lastChild;
  svg.replaceChildren();
  const times = history.time;
  const x = (time) => LEFT + (WIDTH - LEFT) * (1 - (last(times) - time) / 300);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const empty = !values.some((value) => value > 0);
  for (const value of empty ? [0] : [0, top / 2, top]) {
    drawn(svg, "line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) });
  }
  drawn(svg, "text", { x: LEFT, y: HEIGHT - 4 }, "5 min ago");
  drawn(svg, "text", { x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, "now");
  if (empty) {
    const text = times.length ? "No requests in the last five minutes" : "No data yet";
    drawn(svg, "text", { class: "empty", x: (LEFT + WIDTH) / 2, y: y(top / 2) + 4, "text-anchor": "middle" }, text);
    svg.setAttribute("aria-label", `${title}: ${text}`);
    [...figure.firstChild.children].slice(1).forEach((label) => setText(label, ""));
    return;
  }
  drawn(svg, "text", { x: 0, y: y(top) + 4 }, format(top));
  drawn(svg, "text", { x: 0, y: y(0) + 4 }, "0");
  const labels = columns.map((column, number) => {
    let path = "", pen = "M";
    history[column].forEach((value, index) => {
      if (value === null) { pen = "M"; return; }
      path += `${pen}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`;
      // A lone value is a point.
      if (pen === "M") path += "h0.5";
      pen = "L";
    });
    drawn(svg, "path", { class: `c${number}`, d: path || "M0 0" });
    const now = last(history[column]);
    const label = `${columns.length > 1 ? `${column} ` : ""}${now === null ? "-" : format(now)}`;
    setText(figure.firstChild.children[number + 1], label);
    return label;
  });
  svg.setAttribute("aria-label", `${title}, now: ${labels.join(", ")}`);
}

function showPlots(history) {
  PLOTS.forEach((plot, number) => showPlot($("plots").children[number] || newPlot(plot), plot, history));
}

// -- instances ---------------------------------------------------------------------------------

let instance = null; // the one whose figures are shown
const others = new Map(); // the others at this address, by name and start, to name and last answer

// Behind a load balancer each poll may reach another instance: one of them is shown.
function isShown(status) {
  const now = Date.now();
  const key = `${status.instance} ${status.started}`;
  const restarted = instance && status.instance === instance.name && status.started > instance.started;
  const gone = instance && now - instance.seen > INSTANCE_TIMEOUT;
  const shown = !instance || restarted || gone || key === instance.key;
  if (shown) instance = { key, name: status.instance, started: status.started, seen: now };
  else others.set(key, { name: status.instance, seen: now });
  for (const [other, { seen }] of others) {
    if (other === instance.key || now - seen > 4 * INSTANCE_TIMEOUT) others.delete(other);
  }
  setText($("instance"), instance.name);
  const names = [instance.name, ...[...others.values()].map((other) => other.name)];
  $("instances").hidden = names.length === 1;
  setText($("instances"), names.length === 1 ? ""
    : `This address leads to ${names.length} instances (${names.join(", ")}): the figures are those of ${instance.name} alone.`);
  return shown;
}

// -- polling -----------------------------------------------------------------------------------

function stored(name) {
  try { return sessionStorage.getItem(name) || ""; } catch { return ""; }
}

function store(name, value) {
  try { sessionStorage.setItem(name, value); } catch { /* the page asks for it again */ }
}

function authorised(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let statusToken = stored("status-token");
let timer, polls = 0, lastAnswer = null, connected = false;

async function refresh() {
  clearTimeout(timer);
  const poll = ++polls;
  try {
    const response = await fetch("status.json", { headers: authorised(statusToken), cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    const status = response.ok ? await response.json() : null;
    if (poll !== polls) return; // a later one is on its way
    if (response.status === 401) {
      lastAnswer = new Date();
      connected = true;
      $("token-form").hidden = false;
      showHealth("unknown", "A token is needed");
      if (statusToken) setText($("token-hint"), "Invalid token.");
      return; // polled again with the next token
    }
    if (!status) throw new Error(`status.json returned ${response.status}`);
    lastAnswer = new Date();
    connected = true;
    $("token-form").hidden = true;
    if (isShown(status)) {
      const problems = problemsOf(status);
      if (!status.ready) showHealth("bad", "Not ready: rejects requests", problems);
      else if (problems.length) showHealth("warn", "Ready, with warnings", problems);
      else showHealth("good", "Ready: allocates IDs");
      showFacts(status);
      showPlots(status.history);
      ({ counters, counters_total: countersTotal } = status);
      showCounters();
      showModes();
      $("take-token-field").hidden = !status.tokens_required;
      setText($("updated"), `As of ${status.time.replace("T", " ").replace("Z", " UTC")}, every 2 seconds.`);
    }
  } catch (error) {
    if (poll !== polls) return;
    connected = false;
    const reason = error.name === "TimeoutError" ? `no answer within ${TIMEOUT / 1000} seconds` : error.message;
    if (lastAnswer) showHealth("bad", `No answer since ${utc(lastAnswer)}`, [`The connection is lost (${reason}): the figures are those of ${utc(lastAnswer)}.`]);
    else showHealth("bad", "No answer from the service", [`The service cannot be reached: ${reason}.`]);
  }
  compose();
  if (!document.hidden) timer = setTimeout(refresh, POLL_INTERVAL);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  statusToken = $("token").value.trim();
  store("status-token", statusToken);
  refresh();
});

// -- allocation --------------------------------------------------------------------------------

let allocating = false;

function compose() {
  const mode = $("mode").value, range = $("range").value;
  const tokens = !$("take-token-field").hidden;
  const target = new URL(`getid?range=${encodeURIComponent(range)}&mode=${encodeURIComponent(mode)}`, here);
  const header = tokens ? ' -H "Authorization: Bearer $TOKEN"' : "";
  setText($("curl"), `curl -X POST${header} '${target.href.replaceAll("'", "%27")}'`);
  const token = tokens ? ', token=os.environ["TOKEN"]' : "";
  setText($("python"), `${tokens ? "import os\n" : ""}from uniqueid_client import Client\n`
    + `print(Client(${JSON.stringify(here.href)}${token}).get_range(${JSON.stringify(mode)}, ${range}))`);
  const valid = $("take").checkValidity();
  const button = $("take-button");
  setText(button, valid ? `Allocate ${range} ${range === "1" ? "ID" : "IDs"} of ${JSON.stringify(mode)} now` : "Allocate IDs now");
  button.disabled = !valid || !connected || allocating;
}

$("take").addEventListener("input", compose);
// Enter in a field is no explicit click.
$("take").addEventListener("submit", (event) => event.preventDefault());
$("take-button").addEventListener("click", async () => {
  const mode = $("mode").value;
  const body = new URLSearchParams({ range: $("range").value, mode });
  const result = $("taken");
  allocating = true;
  compose();
  result.textContent = "";
  try {
    const response = await fetch("getid", { method: "POST", body, headers: authorised($("take-token").value.trim()) });
    const text = await response.text();
    if (response.ok) {
      // From the text: JavaScript's numbers are exact up to 2**53 only.
      const [first, end] = ["startIndex", "endIndex"].map((name) => {
        const number = element("span");
        setText(number, new RegExp(`"${name}": *(-?\\d+)`).exec(text)[1]);
        return number;
      });
      result.replaceChildren("Allocated: ", first, " to ", end, ` of ${mode}`);
    } else {
      if (response.status === 401) $("take-token-field").hidden = false;
      result.textContent = `Rejected: ${JSON.parse(text).detail}`;
    }
  } catch (error) {
    result.textContent = `No answer: ${error.message}. IDs may have been allocated; they are returned to no other request.`;
  }
  allocating = false;
  compose();
  refresh();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  const name = button.textContent;
  button.addEventListener("click", async () => {
    const code = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = name.replace("Copy", "Copied");
    } catch {
      // Without TLS there is no clipboard: the text is selected instead.
      getSelection().selectAllChildren(code);
      button.textContent = name.replace("Copy", "Selected");
    }
    setTimeout(() => { button.textContent = name; }, 2000);
  });
}

compose();
refresh();
