// Samples to look at: a table that can be searched, and beside it a pane to read the chosen one.

import { h, fill, uniqueId } from "./dom.js";
import { count, influenceOf, plural } from "./format.js";

const AT_FIRST = 60;
const MORE = 200;
const SHOWS = { selected: "Selected", rejected: "Not selected", all: "Both" };
const ROLES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool" };

/** Returns {node, update(view)}; what was searched and chosen stays through updates. */
export function samplesBrowser() {
  const state = { show: "selected", words: "", source: "", limit: AT_FIRST, chosen: null, samples: null };
  const status = h("p", { class: "note", role: "status" });
  const body = h("tbody");
  const more = h("button", { type: "button", class: "plain", onclick: () => { state.limit += MORE; list(); } }, "Show more");
  const pane = readingPane();
  const search = h("input", {
    type: "search",
    placeholder: "Words, an id, a source",
    autocomplete: "off",
    spellcheck: "false",
    oninput: (event) => set({ words: event.target.value }),
  });
  const sources = h("select", { onchange: (event) => set({ source: event.target.value }) });
  const radios = uniqueId("show");
  const choices = Object.entries(SHOWS).map(([show, label]) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name: radios, value: show, checked: show === state.show, onchange: () => set({ show }) }),
      h("span", {}, label),
    ),
  );
  const heads = [["Rank", true], ["Influence", true], ["Sample"], ["Source"], ["Arm", true], ["Tokens", true], ["Begins with"]];
  const tableNode = h(
    "table",
    { class: "samples" },
    h("caption", { class: "sr-only" }, "Samples; arrow keys move, Enter opens one for reading"),
    h("thead", {}, h("tr", {}, heads.map(([head, number]) => h("th", { scope: "col", class: number ? "number" : null }, head)))),
    body,
  );
  tableNode.addEventListener("keydown", moveFocus);
  const node = h(
    "div",
    { class: "browser" },
    h(
      "div",
      { class: "toolbar", role: "search", "aria-label": "Search the samples" },
      h("fieldset", { class: "segments" }, h("legend", { class: "sr-only" }, "Show"), choices),
      h("label", { class: "field grow" }, h("span", {}, "Search"), search),
      h("label", { class: "field" }, h("span", {}, "Source"), sources),
    ),
    status,
    h("div", { class: "split" }, h("div", { class: "table-box list", tabindex: "0", role: "region", "aria-label": "List of samples" }, tableNode, more), pane.node),
  );

  function set(change) {
    Object.assign(state, change, { limit: AT_FIRST });
    list();
  }

  function list() {
    const { selected, rejected } = state.samples;
    const all = { selected, rejected, all: [...selected, ...rejected].sort((a, b) => b.influence - a.influence) }[state.show];
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.filter((sample) => (!state.source || sample.source === state.source) && matches(sample, words));
    fill(body, found.slice(0, state.limit).map(line));
    if (!found.length) fill(body, h("tr", {}, h("td", { class: "none", colspan: heads.length }, "No sample matches.")));
    more.hidden = found.length <= state.limit;
    status.textContent = summary(found.length, all.length);
    choose(found.includes(state.chosen) ? state.chosen : (found[0] ?? null));
  }

  function summary(found, of) {
    const { num_selected: selected, num_rejected: rejected } = state.samples;
    const [total, kind] = { selected: [selected, "selected"], rejected: [rejected, "scored and not selected"], all: [selected + rejected, "scored"] }[state.show];
    const here = of < total ? `${count(of)} of ${count(total)} ${kind} samples are here: the best, and others evenly down the ranks.` : `All ${plural(total, "sample")} ${kind} are here.`;
    return found === of ? here : `${plural(found, "sample")} found. ${here}`;
  }

  function line(sample) {
    const open = h("button", { type: "button", class: "row-link", onclick: () => choose(sample) }, sample.id);
    const row = h(
      "tr",
      { onclick: (event) => { if (event.target !== open) choose(sample); } },
      h("td", { class: "number" }, sample.rank === null ? "–" : count(sample.rank)),
      h("td", { class: "number" }, influenceOf(sample.influence)),
      h("th", { scope: "row", class: "id" }, open),
      h("td", { class: "source" }, sample.source),
      h("td", { class: "number" }, sample.cluster === null ? "–" : sample.cluster),
      h("td", { class: "number" }, count(sample.tokens)),
      h("td", { class: "begin" }, beginning(sample)),
    );
    row.sample = sample;
    return row;
  }

  function choose(sample) {
    state.chosen = sample;
    mark();
    pane.show(sample, state.words.toLowerCase().split(/\s+/).filter(Boolean));
  }

  function mark() {
    for (const row of body.rows) {
      const chosen = row.sample !== undefined && row.sample === state.chosen;
      row.classList.toggle("chosen", chosen);
      row.querySelector("button")?.setAttribute("aria-pressed", String(chosen));
    }
  }

  function moveFocus(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...body.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  }

  function update(view) {
    const key = state.chosen && `${state.chosen.rank === null} ${state.chosen.id}`;
    state.samples = view.samples;
    const everything = [...view.samples.selected, ...view.samples.rejected];
    state.chosen = everything.find((sample) => `${sample.rank === null} ${sample.id}` === key) ?? null;
    const names = [...new Set(everything.map((sample) => sample.source))].sort();
    if (!names.includes(state.source)) state.source = "";
    fill(
      sources,
      h("option", { value: "" }, "All sources"),
      names.map((name) => h("option", { value: name, selected: name === state.source }, name)),
    );
    list();
  }

  return { node, update };
}

function matches(sample, words) {
  if (!words.length) return true;
  sample.searched ??= [sample.id, sample.source, ...(sample.messages ?? []).map((message) => message.content)].join("\n").toLowerCase();
  return words.every((word) => sample.searched.includes(word));
}

function beginning(sample) {
  const message = sample.messages?.find((each) => each.role === "user") ?? sample.messages?.[0];
  return message ? message.content.replace(/\s+/g, " ").trim().slice(0, 160) : "–";
}

function readingPane() {
  const head = uniqueId("reading");
  const node = h("article", { class: "pane", tabindex: "0", "aria-labelledby": head });
  let shown = null;
  function show(sample, words) {
    if (!sample) {
      fill(node, h("h3", { id: head }, "Nothing chosen"), h("p", { class: "none" }, "Choose a sample to read it."));
      return;
    }
    const place = sample.rank === null ? (sample.stage === "audit" ? "not drawn, scored by the audit" : "drawn, not selected") : `rank ${count(sample.rank)} of the selection`;
    const facts = [
      ["Influence", influenceOf(sample.influence)],
      ["Source", sample.source],
      ["Subtask", sample.subtask],
      ["Arm", sample.cluster ?? "–"],
      ["Drawn in", sample.round === null ? sample.stage : sample.round === 0 ? "cold start" : `round ${sample.round}`],
      ["Loss", sample.loss.toFixed(3)],
      ["Tokens", `${count(sample.tokens)}, ${count(sample.label_tokens)} with loss`],
    ];
    fill(
      node,
      h("h3", { id: head }, h("span", { class: "id" }, sample.id), h("span", { class: sample.rank === null ? "badge" : "badge selected" }, place)),
      h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))),
      sample.messages === null
        ? h("p", { class: "none" }, "Texts are shown once the run has ended.")
        : h("ol", { class: "chat" }, sample.messages.map((message) => turn(message, words))),
      sample.cut ? h("p", { class: "note" }, `${plural(sample.cut, "more character")} left out here; selection.jsonl has the whole.`) : null,
    );
    if (shown !== sample.id) node.scrollTop = 0;
    shown = sample.id;
  }
  return { node, show };
}

function turn(message, words) {
  const role = ROLES[message.role] ?? message.role;
  return h("li", { class: `turn ${ROLES[message.role] ? message.role : "other"}` }, h("span", { class: "role" }, role), h("div", { class: "text" }, marked(message.content, words)));
}

/** The text with the searched words marked: text nodes and mark elements, whatever the text says. */
function marked(text, words) {
  if (!words.length) return [text];
  const pattern = new RegExp(words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi");
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > at) parts.push(text.slice(at, found.index));
    parts.push(h("mark", {}, found[0]));
    at = found.index + found[0].length;
  }
  parts.push(text.slice(at));
  return parts;
}
