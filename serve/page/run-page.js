// One run of the service: its view, live while it goes, with what can be done about it.

import { ask, download, follow, isOver, Problem, sleep } from "./api.js";
import { h, fill } from "./dom.js";
import { count, plural } from "./format.js";
import { runView, stateBadge } from "./run-view.js";

const LEAST_MS = 1500;
const FILES = [
  ["Selection (JSONL)", "result?format=jsonl", "jsonl"],
  ["Scores (Parquet)", "result?format=parquet", "parquet"],
  ["Report (HTML)", "report", "html"],
];

/** The file of one of several targets: its own selection, where the first of FILES is the joint one. */
const ofTarget = (name) => [`For ${name} alone (JSONL)`, `result?format=jsonl&target=${encodeURIComponent(name)}`, `${name}.jsonl`];

export function runPage(id, { signal, unauthorised }) {
  const actions = h("div", { class: "actions" });
  const view = runView([actions]);
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const connection = h("p", { class: "note", role: "status" });
  const waiting = h("section", { class: "card", "aria-label": "State", hidden: true });
  const loading = h("p", { class: "none", role: "status" }, "Loading…");
  const heading = h("h1", { tabindex: "-1" }, "Run");
  const node = h("div", { class: "page" }, h("p", { class: "crumb" }, h("a", { href: "#/" }, "All runs")), problem, connection, heading, loading, waiting, view.node);
  view.node.hidden = true;
  const state = { record: null, due: false, asked: 0, took: 0 };

  function tell(error) {
    if (signal.aborted) return;
    if (error instanceof Problem && error.status === 401) return unauthorised(error.message);
    loading.hidden = true;
    problem.hidden = false;
    problem.textContent = error instanceof Problem && error.status === 404 ? "There is no such run, or it is not yours." : error.message;
  }

  function showRecord(record) {
    const changed = state.record?.status !== record.status;
    state.record = record;
    loading.hidden = true;
    document.title = `${record.label || id.slice(0, 14)} · ClusterUCB`;
    heading.textContent = record.label || id;
    if (changed) {
      fill(actions, isOver(record) ? null : h("button", { type: "button", class: "plain danger", onclick: confirmStop }, "Stop"), record.status === "finished" ? [...FILES.map(fileButton), ...record.targets.map(ofTarget).map(fileButton)] : null);
    }
    const early = view.node.hidden;
    waiting.hidden = !early;
    heading.hidden = !early;
    if (!early) return;
    const words = {
      queued: record.queue_position ? `${plural(record.queue_position, "run")} will start before this one.` : "This run is next.",
      running: "Reading pool and target; what is scored shows here as soon as there is something.",
    }[record.status] ?? record.error ?? "There is nothing to show of this run.";
    fill(waiting, h("div", { class: "title" }, stateBadge(record.status), h("span", {}, `${record.pool} for ${record.target.startsWith("inline:") ? "pasted examples" : record.target}, by ${record.checkpoint}`)), h("p", {}, words), early && !isOver(record) ? actions : null);
  }

  async function refresh() {
    const began = performance.now();
    const found = await ask(`/v1/selections/${id}/view`, { signal });
    state.took = performance.now() - began;
    const first = view.node.hidden;
    const focused = first && document.activeElement === heading;
    view.node.hidden = false;
    heading.hidden = waiting.hidden = true;
    view.node.querySelector(".run-head").append(actions);
    const { checkpoint: model, label, pool } = state.record;
    const target = state.record.target.startsWith("inline:") ? "pasted examples" : state.record.target;
    view.update({ ...found, run: label || found.run, setup: { ...found.setup, model, pool, target } }); // by the catalogue's names
    if (focused) view.title.focus();
    const reused = state.record.gradients;
    connection.textContent = reused?.reused ? `${count(reused.reused)} gradients were reused from earlier requests, ${count(reused.computed)} computed.` : "";
    return found;
  }

  /** Ask for the view again, soon, but no faster than it can be made. */
  function refreshSoon() {
    if (state.due || signal.aborted) return;
    state.due = true;
    sleep(Math.max(LEAST_MS, 5 * state.took), signal).then(async () => {
      state.due = false;
      if (!signal.aborted) await refresh().catch(passing);
    });
  }

  function passing(error) {
    if (signal.aborted || (error instanceof Problem && [0, 409, 429, 503].includes(error.status))) return null;
    tell(error);
    return null;
  }

  function confirmStop() {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "stop-title" },
      h("form", { method: "dialog" }, h("h2", { id: "stop-title" }, "Stop this run?"), h("p", {}, "What it has computed is kept and serves later requests; the selection is not made."), h("div", { class: "actions" }, h("button", { value: "no", class: "plain" }, "Let it run"), h("button", { value: "yes", class: "plain danger" }, "Stop it"))),
    );
    dialog.addEventListener("close", async () => {
      dialog.remove();
      if (dialog.returnValue !== "yes") return;
      try {
        showRecord(await ask(`/v1/selections/${id}`, { method: "DELETE" }));
      } catch (error) {
        tell(error);
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  function fileButton([words, path, ending]) {
    const name = state.record.targets.length && words === FILES[0][0] ? "Joint selection (JSONL)" : words;
    const button = h("button", { type: "button", class: "plain", onclick: fetchIt }, name);
    async function fetchIt() {
      button.disabled = true;
      try {
        await download(`/v1/selections/${id}/${path}`, `${state.record.label.replace(/[^\w.-]+/g, "-") || id}.${ending}`);
      } catch (error) {
        tell(error);
      } finally {
        button.disabled = false;
      }
    }
    return button;
  }

  (async () => {
    try {
      showRecord(await ask(`/v1/selections/${id}`, { signal }));
      const found = state.record.status === "queued" ? null : await refresh().catch(passing);
      if (isOver(state.record)) return;
      await follow(
        id,
        found?.progress.read_to ?? 0,
        (kind, data) => {
          if (kind === "record") showRecord(data);
          refreshSoon();
        },
        { signal, onState: (words) => { connection.textContent = words ?? ""; } },
      );
      if (!signal.aborted) await refresh();
    } catch (error) {
      tell(error);
    }
  })();
  return { name: "Run", node };
}
