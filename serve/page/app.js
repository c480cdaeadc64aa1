// The page of a service: who asks, and which of its views is shown. The address after # says which.

import { token } from "./api.js";
import { h, fill } from "./dom.js";
import { newRun } from "./new-run.js";
import { runList } from "./run-list.js";
import { runPage } from "./run-page.js";
import { signIn } from "./sign-in.js";
import { themeControl } from "./theme.js";

const main = document.querySelector("main");
const bar = document.getElementById("account");
let current = null;

document.querySelector("header.top").append(themeControl());

/** Show the view that the address names. `message` is for the sign-in. */
function show(message = null) {
  current?.abort();
  current = new AbortController();
  const { signal } = current;
  const signedIn = token.get() !== null;
  fill(
    bar,
    signedIn && h("a", { href: "#/" }, "Runs"),
    signedIn && h("a", { href: "#/new" }, "New selection"),
    signedIn && h("button", { type: "button", class: "link", onclick: () => signOut() }, "Sign out"),
  );
  const [, place, id] = /^#\/(runs|new)?\/?([0-9a-f]{28})?$/.exec(location.hash || "#/") ?? [];
  const context = { signal, unauthorised: (words) => signOut(words) };
  const view = !signedIn
    ? signIn(message, (given) => { token.set(given); show(); })
    : place === "runs" && id
      ? runPage(id, context)
      : place === "new"
        ? newRun(context)
        : runList(context);
  document.title = `${view.name} · ClusterUCB`;
  fill(main, view.node);
  for (const link of bar.querySelectorAll("a")) {
    if (link.hash === (location.hash || "#/")) link.setAttribute("aria-current", "page");
  }
  (view.focus ?? main.querySelector("h1"))?.focus();
  scrollTo(0, 0);
}

function signOut(message = null) {
  token.clear();
  show(message);
}

addEventListener("hashchange", () => {
  if (location.hash === "" || location.hash.startsWith("#/")) show();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.querySelector("h1")?.focus();
});
show();
