// One run, from its view: the same in report.html and in the service's page.

import { h, fill } from "./dom.js";
import {
  armsSection,
  budgetSection,
  costSection,
  influenceSection,
  keyFigures,
  lengthsSection,
  progressSection,
  recordSection,
  samplesSection,
  sourcesSection,
} from "./sections.js";

const STATES = { prepared: "prepared", running: "running", finished: "finished", failed: "failed", cancelled: "stopped" };

export function stateBadge(state) {
  return h("span", { class: `badge state-${Object.hasOwn(STATES, state) ? state : "other"}` }, STATES[state] ?? state);
}

/** Returns {node, update(view)}; `actions` are elements beside the title. */
export function runView(actions = []) {
  const title = h("h1", { tabindex: "-1" });
  const badge = h("span", { class: "badge-box", role: "status" });
  const about = h("p", { class: "about" });
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const links = h("ul");
  const nav = h("nav", { class: "sections", "aria-label": "Sections" }, links);
  const figures = keyFigures();
  const sections = [
    progressSection(),
    influenceSection(),
    costSection(),
    budgetSection(),
    armsSection(),
    sourcesSection(),
    lengthsSection(),
    samplesSection(),
    recordSection(),
  ];
  const node = h(
    "div",
    { class: "run" },
    h("header", { class: "run-head" }, h("div", { class: "title" }, title, badge), about, h("div", { class: "actions" }, actions)),
    problem,
    figures.node,
    nav,
    h("div", { class: "cards" }, sections.map((section) => section.node)),
  );
  let linked = "";

  function update(view) {
    title.textContent = view.run;
    if (badge.textContent !== STATES[view.progress.state]) fill(badge, stateBadge(view.progress.state));
    about.textContent = `${view.setup.pool} for ${view.setup.target}, by the gradients of ${view.setup.model}`;
    problem.hidden = view.progress.error === null;
    if (problem.textContent !== (view.progress.error ?? "")) problem.textContent = view.progress.error ?? "";
    for (const part of [figures, ...sections]) {
      part.node.hidden = !part.has(view);
      if (!part.node.hidden) part.update(view);
    }
    const shown = sections.filter((section) => !section.node.hidden);
    const names = shown.map((section) => section.title).join();
    if (names === linked) return;
    linked = names;
    fill(links, shown.map((section) => h("li", {}, h("a", { href: `#${section.node.id}`, onclick: (event) => jump(event, section.node) }, section.title))));
  }

  return { node, update, title };
}

/** Go to a section without changing the address, which the service's page uses for its own. */
function jump(event, target) {
  event.preventDefault();
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}
