// Asking for the token. It stays in this tab alone, and goes when the tab is closed.

import { ask, Problem, token } from "./api.js";
import { h } from "./dom.js";

export function signIn(message, done) {
  const problem = h("p", { class: "problem", role: "alert", hidden: message === null }, message ?? "");
  const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-help" });
  const button = h("button", { class: "primary" }, "Continue");
  async function submit(event) {
    event.preventDefault();
    const given = input.value.trim();
    button.disabled = true;
    token.set(given);
    try {
      await ask("/v1/selections?limit=1");
      done(given);
    } catch (error) {
      token.clear();
      problem.hidden = false;
      problem.textContent = error instanceof Problem && error.status === 401 ? "The service does not know this token, or it has expired." : error.message;
      input.focus();
      input.select();
    } finally {
      button.disabled = false;
    }
  }
  const node = h(
    "form",
    { class: "card sign-in", onsubmit: submit },
    h("h1", { tabindex: "-1" }, "Enter your token"),
    problem,
    h("label", { class: "field", for: "token" }, h("span", {}, "Token"), input),
    h("p", { class: "note", id: "token-help" }, "The operator of this service makes one with ", h("code", {}, "clusterucb token make"), ". It is kept in this tab only, until you close it or sign out."),
    button,
  );
  return { name: "Sign in", node, focus: input };
}
