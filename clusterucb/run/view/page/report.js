// report.html: the view stands in the page.

import { h } from "./dom.js";
import { runView } from "./run-view.js";
import { themeControl } from "./theme.js";

const run = runView();
document.querySelector("header.top").append(themeControl());
document.querySelector("main").append(run.node);
run.update(JSON.parse(document.getElementById("view").textContent));
document.querySelector("main").append(h("footer", {}, "Made by the ClusterUCB selection service. This file needs no network and no other file."));
