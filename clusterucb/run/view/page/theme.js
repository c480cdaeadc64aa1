// Light, dark, or as the system has it. The choice stays in this browser.

import { h } from "./dom.js";

const CHOICES = ["system", "light", "dark"];
const KEY = "clusterucb-theme";

function chosenTheme() {
  try {
    const kept = localStorage.getItem(KEY);
    return CHOICES.includes(kept) ? kept : "system";
  } catch {
    return "system"; // a file opened from disk may have no storage
  }
}

function apply(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** Apply the kept choice and return the control that changes it. */
export function themeControl() {
  apply(chosenTheme());
  const choose = (event) => {
    apply(event.target.value);
    try {
      localStorage.setItem(KEY, event.target.value);
    } catch {
      // it holds for this visit
    }
  };
  const options = CHOICES.map((name) => h("option", { value: name, selected: name === chosenTheme() }, name));
  return h("label", { class: "theme" }, h("span", {}, "Theme"), h("select", { onchange: choose }, options));
}
