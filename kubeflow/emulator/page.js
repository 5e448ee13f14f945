"use strict";
// Lists jobs and draws one: "#" is the list, "#NAME" a job, "#NAME!TASK" a task of it. Text only ever becomes text nodes.
const WIDTH = 216, HEIGHT = 44, ACROSS = 24, DOWN = 36;
const page = document.getElementById("page");
let shown = "";

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "text", "path", "title"].includes(tag) || attributes.svg;
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (name !== "svg") made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const word = (state) => (state || "").replace("PIPELINE_STATE_", "").toLowerCase();
const stateOf = (each) => element("span", { class: word(each.state) }, word(each.state).replace("_", " "));
const told = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const when = (time) => (time ? new Date(time).toLocaleString() : "");

function duration(each) {
  if (!each || !each.startTime) return "";
  const seconds = Math.max(0, (each.endTime ? new Date(each.endTime) : Date.now()) - new Date(each.startTime)) / 1000;
  if (seconds < 100) return seconds.toFixed(1) + " s";
  return Math.floor(seconds / 60) + " min " + Math.floor(seconds % 60) + " s";
}

function table(rows, ...heads) {
  const head = heads.length ? [element("tr", {}, ...heads.map((text) => element("th", {}, text)))] : [];
  return element("table", {}, ...head, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell)))));
}

function section(title, rows) {
  return rows.length ? element("section", {}, element("h2", {}, title), table(rows)) : null;
}

// Every task with those that it waits for; the tasks of a graph inside a task follow that, and it ends with their last.
function graph(spec, component = spec.root, prefix = "", entry = []) {
  const tasks = (component.dag || {}).tasks || {}, nodes = new Map(), ends = {};
  for (const name of Object.keys(tasks)) ends[name] = [prefix + name];
  const needs = (task) => {
    const inputs = task.inputs || {};
    const sources = [...Object.values(inputs.artifacts || {}), ...Object.values(inputs.parameters || {})];
    const names = sources.map((s) => (s.taskOutputArtifact || s.taskOutputParameter || s.taskFinalStatus || {}).producerTask);
    const known = [...names, ...(task.dependentTasks || [])].map((n) => (n in tasks ? n : (n || "").replace(/_task$/, "")));
    return [...new Set(known)].filter((name) => name in tasks);
  };
  for (const [name, task] of Object.entries(tasks)) {
    const inner = spec.components[task.componentRef.name];
    if (!inner.dag) continue;
    const within = graph(spec, inner, prefix + name + ".", [prefix + name]);
    const needed = new Set([...within.values()].flat());
    ends[name] = [...within.keys()].filter((each) => !needed.has(each));
    for (const [key, value] of within) nodes.set(key, value);
  }
  for (const [name, task] of Object.entries(tasks)) {
    const above = needs(task).flatMap((each) => ends[each]);
    nodes.set(prefix + name, above.length ? above : entry);
  }
  return nodes;
}

function draw(job, details, name, chosen) {
  const nodes = graph(job.pipelineSpec), level = new Map(), rows = [];
  const depth = (node) => {
    if (!level.has(node)) level.set(node, Math.max(-1, ...nodes.get(node).map(depth)) + 1);
    return level.get(node);
  };
  for (const node of [...nodes.keys()].sort()) (rows[depth(node)] ||= []).push(node);
  const widest = Math.max(...rows.map((row) => row.length)), at = new Map();
  rows.forEach((row, y) => {
    const middle = (node) => nodes.get(node).reduce((sum, each) => sum + at.get(each).x, 0) / (nodes.get(node).length || 1);
    if (y) row.sort((a, b) => middle(a) - middle(b));
    const left = ((widest - row.length) * (WIDTH + ACROSS)) / 2;
    row.forEach((node, x) => at.set(node, { x: 4 + left + x * (WIDTH + ACROSS), y: 4 + y * (HEIGHT + DOWN) }));
  });
  const width = widest * (WIDTH + ACROSS) - ACROSS + 8, height = rows.length * (HEIGHT + DOWN) - DOWN + 8;
  const svg = element("svg", { width, height, role: "group", "aria-label": "Tasks" });
  const reaches = (from, to) => nodes.get(to).some((each) => each === from || reaches(from, each));
  for (const [node, above] of nodes) for (const each of above) {
    if (above.some((other) => other !== each && reaches(each, other))) continue; // Another line says so already.
    const from = at.get(each), to = at.get(node), x = from.x + WIDTH / 2, y = from.y + HEIGHT, end = to.x + WIDTH / 2;
    svg.append(element("path", { d: `M${x},${y} C${x},${y + DOWN / 2} ${end},${to.y - DOWN / 2} ${end},${to.y}` }));
  }
  for (const [node, { x, y }] of at) {
    const detail = details.get(node), state = word(detail && detail.state);
    const short = node.length > 28 ? "…" + node.slice(-27) : node;
    const link = { svg: true, href: `#${name}!${encodeURIComponent(node)}`, class: state + (node === chosen ? " chosen" : "") };
    svg.append(element("a", link, element("title", {}, node), element("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 6 }),
      element("text", { x: x + 10, y: y + 18 }, short),
      element("text", { x: x + 10, y: y + 35, class: "state" },
        detail ? `${state.replace("_", " ")} · ${duration(detail)}` : "not started")));
  }
  return element("div", { class: "graph" }, svg);
}

function artifacts(lists) {
  return Object.entries(lists || {}).flatMap(([key, list]) => (list.artifacts || []).map((each) =>
    [key, element("div", {}, element("div", {}, `${each.schemaTitle} · ${each.uri}`),
      element("div", { class: "dim" }, Object.entries(each.metadata || {}).map(([k, v]) => `${k}: ${told(v)}`).join(" · ")))]));
}

function values(detail, prefix) {
  return Object.entries(detail.execution.metadata).filter(([key]) => key.startsWith(prefix))
    .map(([key, value]) => [key.slice(prefix.length), told(value)]);
}

function describe(detail, log) {
  const history = detail.pipelineTaskStatus.map((each) =>
    [when(each.updateTime), word(each.state).replace("_", " ") + (each.error ? ": " + each.error.message : "")]);
  return element("div", { class: "task" }, element("h1", {}, detail.taskUniqueName),
    element("p", {}, stateOf(detail), ` · ${duration(detail)}`),
    detail.error ? element("p", { class: "error" }, detail.error.message) : null,
    section("Outputs", [...artifacts(detail.outputs), ...values(detail, "output:")]),
    section("Input artifacts", artifacts(detail.inputs)), section("Parameters", values(detail, "input:")),
    section("History", history),
    log ? element("section", {}, element("h2", {}, "Log"), element("pre", { id: "log", tabindex: 0 }, log)) : null);
}

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(((await answer.json()).error || {}).message || answer.statusText);
  return answer;
}

async function jobPage(name, chosen) {
  const job = await (await fetched("/v1/" + name)).json();
  const details = new Map(job.jobDetail.taskDetails.map((each) => [each.taskUniqueName, each]));
  const detail = details.get(chosen), root = details.get(name.split("/").pop());
  const log = detail ? await (await fetched("/logs/" + detail.taskId)).text() : "";
  const of = root ? values(root, "input:") : [];
  const about = chosen ? element("p", { class: "dim" }, `${chosen} has not started.`) :
    element("div", {}, section("Parameters", of), section("Labels", Object.entries(job.labels || {})),
      element("p", { class: "dim" }, "Choose a task for its inputs, outputs and log."));
  return element("div", {}, element("h1", {}, job.displayName || name.split("/").pop()),
    element("p", {}, stateOf(job), ` · ${duration(job)} · `, element("span", { class: "dim" }, `${name} · ${when(job.createTime)}`)),
    job.error ? element("p", { class: "error" }, job.error.message) : null,
    element("div", { class: "job" }, draw(job, details, name, chosen), detail ? describe(detail, log) : about));
}

async function listPage() {
  const mask = "name,display_name,state,create_time,start_time,end_time,pipeline_spec.pipeline_info";
  const { pipelineJobs } = await (await fetched("/v1/projects/-/locations/-/pipelineJobs?readMask=" + mask)).json();
  if (!pipelineJobs.length) return element("p", { class: "dim" }, "No jobs yet. Submit one with google-cloud-aiplatform.");
  return table(pipelineJobs.map((job) =>
    [element("a", { href: "#" + job.name }, job.name.split("/").pop()), job.displayName || "", job.pipelineSpec.pipelineInfo.name,
      stateOf(job), duration(job), when(job.createTime)]), "Job", "Name", "Pipeline", "State", "Duration", "Created");
}

async function show() {
  const place = location.hash.slice(1), [name, chosen] = place.split("!");
  try {
    const made = name ? await jobPage(name, chosen && decodeURIComponent(chosen)) : await listPage();
    if (place !== location.hash.slice(1)) return;
    document.getElementById("lost").textContent = "";
    if (place + made.innerHTML === shown) return;
    const old = document.getElementById("log"), focus = document.activeElement && document.activeElement.getAttribute("href");
    const follows = !old || old.scrollTop + old.clientHeight >= old.scrollHeight - 4, scrolled = old ? old.scrollTop : 0;
    shown = place + made.innerHTML;
    page.replaceChildren(made);
    const log = document.getElementById("log");
    if (log) log.scrollTop = follows ? log.scrollHeight : scrolled;
    if (focus) for (const link of page.querySelectorAll("a")) if (link.getAttribute("href") === focus) link.focus();
  } catch (error) {
    document.getElementById("lost").textContent = error instanceof TypeError ? "The emulator does not answer." : error.message;
  }
}

addEventListener("hashchange", show);
(async () => { for (;;) { await show(); await new Promise((done) => setTimeout(done, 1000)); } })();
