// The words of the method, explained where they stand (on hover and on focus) and once more in a list.

import { h, uniqueId } from "./dom.js";

const TERMS = {
  influence:
    "How much a training step on this sample would help with the target: the cosine between the sample's gradient, " +
    "as Adam would scale it, and the mean gradient of the target's examples. The largest over the target's subtasks.",
  arm:
    "A cluster of similar samples, seen as one arm of a bandit: the search draws from it without putting back, and " +
    "draws more where influence has been high or uncertain.",
  draw: "One sample sent to the model for its gradient. Draws are what the budget counts.",
  round: "Draws decided together. Round 0 is the cold start: a few draws from every cluster.",
  budget: "How much of the pool may be scored, cold start included. The audit is paid on top.",
  audit:
    "A uniform sample of what was never drawn, scored at the end. It tells, without assuming anything about the " +
    "pool, how much of the true best the search found.",
  recall: "The share of the pool's true best samples that the search drew, estimated by the audit, with its interval.",
  lift: "A source's share of the selection over its share of the pool: 2× means selected twice as often as at random.",
  exhaustive: "Scoring every usable sample of the pool: what the selection would cost without a search.",
  threshold: "The smallest influence that was selected.",
  pool: "All training samples that were offered.",
  drawn: "Samples whose gradient was taken, the audit's aside.",
  selected: "The samples with the largest influence among the drawn ones: the result.",
  "label tokens": "Tokens that carry loss, by default those of the assistant's messages.",
};

/** A word that explains itself. */
export function term(name, words = name) {
  const id = uniqueId("term");
  const tip = h("span", { class: "tip", role: "tooltip", id }, TERMS[name]);
  const hide = (event) => {
    if (event.key === "Escape") tip.classList.add("hidden");
  };
  const show = () => {
    tip.classList.remove("hidden");
    const room = document.documentElement.clientWidth;
    tip.style.setProperty("--shift", "0px");
    const box = tip.getBoundingClientRect();
    const shift = Math.min(0, room - 12 - box.right) + Math.max(0, 12 - box.left);
    tip.style.setProperty("--shift", `${shift}px`);
  };
  const word = h("button", { type: "button", class: "term", "aria-describedby": id }, words);
  return h("span", { class: "term-box", onkeydown: hide, onpointerenter: show, onfocusin: show }, word, tip);
}

/** All words, for reading from top to bottom. */
export function glossary() {
  const entries = Object.entries(TERMS).flatMap(([name, meaning]) => [h("dt", {}, name), h("dd", {}, meaning)]);
  return h("dl", { class: "glossary" }, entries);
}
