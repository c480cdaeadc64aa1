// The runs, newest first. Those at work are followed as they go; the others are asked about now and then.

import { ask, follow, isOver, Problem, sleep } from "./api.js";
import { h, fill, uniqueId } from "./dom.js";
import { count, moment, percent, plural } from "./format.js";
import { stateBadge } from "./run-view.js";

const POLL_MS = 4000;
const FOLLOWED = 3; // a browser opens six connections to a host at most
const STATES = { "": "All states", queued: "Queued", running: "Running", finished: "Finished", failed: "Failed", cancelled: "Stopped" };
const HEADS = ["Run", "State", "Pool", "Target", "Progress", "Created"];

export function runList({ signal, unauthorised }) {
  const state = { status: "", runs: new Map(), next: null, followed: new Map(), loaded: false };
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const status = h("p", { class: "note", role: "status" }, "Loading…");
  const body = h("tbody");
  const tableBox = h(
    "div",
    { class: "table-box runs", hidden: true },
    h("table", {}, h("caption", { class: "sr-only" }, "Runs, newest first"), h("thead", {}, h("tr", {}, HEADS.map((head) => h("th", { scope: "col" }, head)))), body),
  );
  const empty = h(
    "div",
    { class: "empty", hidden: true },
    h("h2", {}, "No runs yet"),
    h("p", {}, "A selection takes a pool, a checkpoint and a few dozen examples of what the model should get better at, and gives back the few per cent of the pool most worth training on."),
    h("a", { class: "button primary", href: "#/new" }, "Start a selection"),
  );
  const more = h("button", { type: "button", class: "plain", hidden: true, onclick: () => load(state.next) }, "Older runs");
  const filter = h("select", { onchange: (event) => { state.status = event.target.value; state.runs.clear(); state.loaded = false; load(); } }, Object.entries(STATES).map(([value, name]) => h("option", { value }, name)));
  const node = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("h1", { tabindex: "-1" }, "Runs"), h("label", { class: "field inline" }, h("span", {}, "State"), filter), h("a", { class: "button primary", href: "#/new" }, "New selection")),
    problem,
    h("section", { class: "card", "aria-label": "Runs" }, status, tableBox, empty, more),
  );

  async function load(before = null) {
    try {
      const query = new URLSearchParams({ limit: "50", ...(state.status && { status: state.status }), ...(before && { before }) });
      const page = await ask(`/v1/selections?${query}`, { signal });
      problem.hidden = true;
      if (before || !state.loaded) state.next = page.next ?? null;
      if (!before && !state.loaded) state.runs.clear();
      state.loaded = true;
      for (const record of page.runs) state.runs.set(record.id, kept(record));
      render();
      followSome();
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status === 401) return unauthorised(error.message);
      problem.hidden = false;
      problem.textContent = error.message;
      if (!state.loaded) status.textContent = "";
    }
  }

  /** A record from a list may lack the stages that its events have told. */
  function kept(record) {
    const before = state.runs.get(record.id);
    return before && !record.stages.length ? { ...record, stages: before.stages } : record;
  }

  function render() {
    const runs = [...state.runs.values()].filter((run) => !state.status || run.status === state.status).sort((a, b) => (a.id < b.id ? 1 : -1));
    const focused = document.activeElement?.getAttribute("href");
    fill(body, runs.map(line));
    if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    tableBox.hidden = runs.length === 0;
    empty.hidden = runs.length > 0 || state.status !== "";
    more.hidden = state.next === null;
    const active = runs.filter((run) => !isOver(run)).length;
    const words = runs.length ? `${plural(runs.length, "run")}${active ? `, ${count(active)} of them queued or running` : ""}` : state.status ? "No run is in this state." : "";
    if (status.textContent !== words) status.textContent = words;
    status.hidden = words === "";
  }

  function followSome() {
    for (const [id, controller] of state.followed) {
      const run = state.runs.get(id);
      if (!run || isOver(run)) { controller.abort(); state.followed.delete(id); }
    }
    for (const run of state.runs.values()) {
      if (run.status !== "running" || state.followed.has(run.id) || state.followed.size >= FOLLOWED) continue;
      const controller = new AbortController();
      state.followed.set(run.id, controller);
      signal.addEventListener("abort", () => controller.abort(), { once: true });
      const stages = new Map();
      follow(run.id, 0, (kind, data) => { told(run.id, stages, kind, data); }, { signal: controller.signal }).catch(() => state.followed.delete(run.id));
    }
  }

  let due = false;
  function told(id, stages, kind, data) {
    const before = state.runs.get(id);
    if (!before) return;
    if (kind === "stage_started") stages.set(data.stage, { stage: data.stage, done: data.done, total: data.total, finished: false });
    else if (kind === "progressed" && stages.has(data.stage)) stages.get(data.stage).done += data.samples;
    else if (kind === "stage_finished" && stages.has(data.stage)) stages.get(data.stage).finished = true;
    state.runs.set(id, { ...before, ...(kind === "record" && data), stages: [...stages.values()] });
    if (due) return;
    due = true;
    setTimeout(() => { due = false; if (!signal.aborted) render(); }, 250);
  }

  (async () => {
    while (!signal.aborted) {
      if (!document.hidden) await load();
      await sleep(POLL_MS, signal);
    }
  })();
  return { name: "Runs", node };
}

function line(run) {
  const name = run.label || run.id.slice(0, 14);
  return h(
    "tr",
    {},
    h("th", { scope: "row", class: "wide" }, h("a", { href: `#/runs/${run.id}` }, name), h("span", { class: "sub" }, run.checkpoint)),
    h("td", {}, stateBadge(run.status)),
    h("td", { class: "wide" }, run.pool),
    h("td", { class: "wide" }, run.target.startsWith("inline:") ? "pasted examples" : run.target),
    h("td", { class: "progress" }, progressOf(run)),
    h("td", { class: "when" }, moment(Date.parse(run.created) / 1000)),
  );
}

function progressOf(run) {
  if (run.status === "queued") return run.queue_position === null || run.queue_position === undefined ? "waiting" : run.queue_position === 0 ? "next in the queue" : `${count(run.queue_position)} before it`;
  if (run.status === "finished" && run.outcome) return `${count(run.outcome.selected)} selected, ${count(run.outcome.scored)} of ${count(run.outcome.pool)} scored`;
  if (run.status === "failed") return h("span", { class: "clip", title: run.error ?? "" }, run.error ?? "ended with an error");
  const stage = run.stages.findLast((each) => each.done || !each.finished);
  if (!stage) return run.status === "running" ? "reading pool and target" : "–";
  const label = uniqueId("progress");
  const share = stage.total ? Math.min(1, stage.done / stage.total) : 0;
  return [
    h("span", { id: label }, `${stage.stage}: ${count(stage.done)} of ${count(stage.total)}`),
    run.status === "running" ? h("progress", { max: "1", value: String(share), "aria-labelledby": label }, percent(share)) : null,
  ];
}
