// Starting a selection: what of the catalogue, which examples, how much of the pool; what it will cost; then go.

import { ask, newKey, Problem } from "./api.js";
import { h, fill, uniqueId } from "./dom.js";
import { compact, count, duration, percent, plural } from "./format.js";
import { term } from "./terms.js";

const ALLOCATORS = {
  ucb_beta: "UCB-β: the paper's; mean + β × spread of each cluster",
  predictive: "Predictive: also predicts single samples from their features",
  ucb1: "UCB1: classic upper confidence bounds",
  thresh_hard: "Threshold: share of a cluster above the running threshold",
  thresh_normal: "Threshold, under a normal fit of each cluster",
  uniform: "Uniform: draws at random, as a baseline",
  exhaustive: "Exhaustive: scores everything; the budget is ignored",
};
const EXAMPLE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}';

export function newRun({ signal, unauthorised }) {
  const state = { key: newKey(), source: "named", cost: null };
  const fields = {};
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const status = h("p", { class: "note", role: "status" }, "Loading the catalogue…");
  const preview = h("div", { role: "status" }, h("p", { class: "none" }, "Ask what this will cost before it starts: nothing is computed but a count, and the time of a few samples."));

  /** A labelled control; `paths` are the places in a request that it stands for. */
  function field(name, label, control, paths, help = null) {
    const id = uniqueId(name);
    const mistake = h("span", { class: "mistake", id: `${id}-mistake` });
    control.id = id;
    control.setAttribute("aria-describedby", [help && `${id}-help`, `${id}-mistake`].filter(Boolean).join(" "));
    fields[name] = { control, mistake, paths };
    return h("div", { class: "field" }, h("label", { for: id }, label), control, help && h("span", { class: "help", id: `${id}-help` }, help), mistake);
  }

  const share = (value) => h("input", { type: "number", min: "0.01", max: "100", step: "any", value, required: true, inputmode: "decimal" });
  const examples = h("textarea", { spellcheck: "false", placeholder: EXAMPLE, rows: "9" });
  const target = h("select");
  const pool = h("select", { required: true });
  const checkpoint = h("select", { required: true });
  const allocator = h("select", {}, Object.entries(ALLOCATORS).map(([kind, words]) => h("option", { value: kind }, words)));
  const file = h("input", { type: "file", accept: ".jsonl,.json,.txt", class: "sr-only", id: uniqueId("file"), onchange: readFile });
  const named = field("target", "Target", target, ["target"]);
  const pasted = h(
    "div",
    { hidden: true },
    field("examples", "Examples, one JSON object a line", examples, ["target", "target.rows"], "Chat messages, or prompt and completion. A few dozen do."),
    h("label", { class: "button", for: file.id }, "Open a file…"),
    file,
  );
  const radios = uniqueId("source");
  const sourceChoice = (value, label) =>
    h("label", {}, h("input", { type: "radio", name: radios, value, checked: value === state.source, onchange: () => choose(value) }), h("span", {}, label));
  const submit = h("button", { class: "primary" }, "Start the selection");
  const costs = h("button", { type: "button", class: "plain", onclick: showCost }, "Show the cost");
  const form = h(
    "form",
    { class: "form", novalidate: true, onsubmit: start, oninput: changed },
    h(
      "section",
      { class: "card", "aria-label": "What is asked for" },
      h("div", { class: "row" }, field("pool", "Pool", pool, ["pool"]), field("checkpoint", "Checkpoint", checkpoint, ["checkpoint"])),
      h("fieldset", {}, h("legend", {}, "What the model should get better at"), h("div", { class: "segments" }, sourceChoice("named", "A known target"), sourceChoice("pasted", "My own examples")), named, pasted),
      h(
        "div",
        { class: "row" },
        field("budget", [term("budget", "Budget"), " (% of the pool)"], share("20"), ["search.budget", "search"], "How much may be scored."),
        field("share", "Selection (% of the pool)", share("5"), ["selection.share", "selection"], "How much is selected, of what was scored."),
      ),
      field("allocator", "Allocator", allocator, ["search.allocator"]),
      h("div", { class: "row" }, field("label", "Name (optional)", h("input", { type: "text", maxlength: "200", autocomplete: "off" }), ["label"]), field("seed", "Seed", h("input", { type: "number", min: "0", step: "1", value: "0" }), ["seed"])),
    ),
    h("section", { class: "card preview", "aria-label": "Cost" }, h("h2", {}, "Cost"), preview, h("div", { class: "actions" }, costs, submit)),
  );
  form.hidden = true;
  const node = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", { tabindex: "-1" }, "New selection")), problem, status, form);

  function choose(value) {
    state.source = value;
    named.hidden = value !== "named";
    pasted.hidden = value !== "pasted";
    changed();
  }

  function changed() {
    state.key = newKey();
    if (state.cost === null) return;
    state.cost = null;
    fill(preview, h("p", { class: "none" }, "The request has changed: ask for its cost again."));
  }

  async function readFile() {
    examples.value = await file.files[0].text();
    file.value = "";
    changed();
  }

  /** Mark mistakes where they are and go to the first. */
  function mark(mistakes) {
    for (const { control, mistake } of Object.values(fields)) {
      mistake.textContent = "";
      control.removeAttribute("aria-invalid");
    }
    let first = null;
    for (const { name, words } of mistakes) {
      const { control, mistake } = fields[name];
      mistake.textContent = words;
      control.setAttribute("aria-invalid", "true");
      first ??= control;
    }
    first?.focus();
  }

  /** Return the request, or null where something is plainly wrong with it. */
  function request() {
    const mistakes = [];
    const wrong = (name, words) => mistakes.push({ name, words });
    const number = (name, least, most) => {
      const value = Number(fields[name].control.value);
      if (!fields[name].control.value || !(value >= least && value <= most)) wrong(name, `Give a number from ${least} to ${most}.`);
      return value;
    };
    const budget = number("budget", 0.01, 100) / 100;
    const selection = number("share", 0.01, 100) / 100;
    const seed = number("seed", 0, 2 ** 53);
    if (!mistakes.length && selection > budget && allocator.value !== "exhaustive") wrong("share", "Only what is scored can be selected: give no more than the budget.");
    const rows = state.source === "pasted" ? rowsOf(examples.value, (words) => wrong("examples", words)) : null;
    if (state.source === "named" && !target.value) wrong("target", "This service knows no target: give your own examples.");
    mark(mistakes);
    if (mistakes.length) return null;
    const label = fields.label.control.value.trim();
    return {
      pool: pool.value,
      checkpoint: checkpoint.value,
      target: rows ? { rows } : target.value,
      search: { budget, allocator: { kind: allocator.value } },
      selection: { share: selection },
      seed,
      ...(label && { label }),
    };
  }

  function tell(error) {
    if (signal.aborted) return;
    if (error instanceof Problem && error.status === 401) return unauthorised(error.message);
    const mistakes = (error.errors ?? []).map(({ field: place, message }) => ({ name: nameOf(place), words: message }));
    mark(mistakes.filter(({ name }) => name !== null));
    const rest = mistakes.filter(({ name }) => name === null).map(({ words }) => words);
    problem.hidden = mistakes.length > 0 && rest.length === 0;
    problem.textContent = rest.length ? rest.join(" ") : error.message;
    if (error.retryAfter) problem.textContent += ` Try again in ${plural(error.retryAfter, "second")}.`;
  }

  function nameOf(place) {
    const found = Object.entries(fields).filter(([name, { paths }]) => paths.some((path) => place === path || place.startsWith(`${path}.`)) && (name !== "target" || state.source === "named") && (name !== "examples" || state.source === "pasted"));
    found.sort(([, a], [, b]) => Math.max(...b.paths.map((path) => path.length)) - Math.max(...a.paths.map((path) => path.length)));
    return found[0]?.[0] ?? null;
  }

  async function showCost() {
    const body = request();
    if (!body) return;
    problem.hidden = true;
    costs.disabled = true;
    fill(preview, h("p", { class: "none" }, "Counting, and timing a few samples…"));
    try {
      state.cost = await ask("/v1/plans", { method: "POST", body, signal });
      fill(preview, costList(state.cost));
    } catch (error) {
      fill(preview, h("p", { class: "none" }, "The cost could not be told."));
      tell(error);
    } finally {
      costs.disabled = false;
    }
  }

  async function start(event) {
    event.preventDefault();
    const body = request();
    if (!body) return;
    problem.hidden = true;
    submit.disabled = true;
    try {
      const record = await ask("/v1/selections", { method: "POST", body, headers: { "Idempotency-Key": state.key }, signal });
      location.hash = `#/runs/${record.id}`;
    } catch (error) {
      tell(error);
    } finally {
      submit.disabled = false;
    }
  }

  (async () => {
    try {
      const [pools, checkpoints, targets] = await Promise.all(["pools", "checkpoints", "targets"].map((what) => ask(`/v1/${what}`, { signal })));
      const options = (entries) => entries.map(({ name, description }) => h("option", { value: name }, description ? `${name}: ${description}` : name));
      fill(pool, options(pools.pools));
      fill(checkpoint, options(checkpoints.checkpoints));
      fill(target, options(targets.targets));
      if (!targets.targets.length) {
        form.querySelector('input[value="pasted"]').checked = true;
        choose("pasted");
      }
      status.hidden = true;
      form.hidden = false;
    } catch (error) {
      status.hidden = true;
      tell(error);
    }
  })();
  return { name: "New selection", node };
}

/** Parse pasted lines; what is wrong with the first bad one goes to `wrong`. */
function rowsOf(text, wrong) {
  const lines = text.split("\n").map((line, i) => [line.trim(), i + 1]).filter(([line]) => line);
  if (!lines.length) {
    wrong("Paste at least one example.");
    return null;
  }
  const rows = [];
  for (const [line, number] of lines) {
    let row;
    try {
      row = JSON.parse(line);
    } catch (error) {
      wrong(`Line ${number} is not JSON (${error.message}): write one object a line.`);
      return null;
    }
    if (typeof row !== "object" || row === null || Array.isArray(row) || !(row.messages || (row.prompt && row.completion))) {
      wrong(`Line ${number} has neither messages nor prompt and completion.`);
      return null;
    }
    rows.push(row);
  }
  return rows;
}

function costList(plan) {
  const entries = [
    ["Usable pool", `${compact(plan.pool.usable)} of ${plural(plan.pool.samples, "sample")}`],
    ["Examples", plural(plan.target.usable, "example")],
    ["Clusters", count(plan.clusters)],
    ["Scored", plural(plan.budget, "sample")],
    ["Selected", plural(plan.selected, "sample")],
    ["Gradients", `${count(plan.gradients)}, ${percent(plan.share_of_exhaustive_gradients)} of exhaustive`],
    ["Time", plan.wall_seconds === null || plan.wall_seconds === undefined ? "not known" : `about ${duration(plan.wall_seconds)}`],
    ["Memory of a worker", `${(plan.worker_memory_bytes / 2 ** 30).toFixed(1)} GiB`],
  ];
  return [h("dl", {}, entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))), plan.notes?.length ? h("ul", { class: "notes" }, plan.notes.map((note) => h("li", {}, note))) : null];
}
