// Charts drawn by Observable Plot (vendor/plot.js): each a figure with a title, a sentence that says what it shows,
// and its data as a table. They redraw when their width changes.

import { h, fill, uniqueId } from "./dom.js";

const { Plot } = globalThis;
const KEYS = { pool: "Pool", drawn: "Drawn", selected: "Selected", undrawn: "Never drawn" };
const LEAST_WIDTH = 240;

/** A legend of the colours that mean the same everywhere. */
export function legend(...names) {
  const keys = names.map((name) => h("li", {}, h("span", { class: `swatch ${name}` }), KEYS[name]));
  return h("ul", { class: "legend" }, keys);
}

/**
 * title; legend?; describe(data): the sentence; draw(data, width): options for Plot; data?: a dataTable with
 * rows(data). Returns {node, update(data)}.
 */
export function chart({ title, keys = null, describe, draw, data = null, rows = null, note = null }) {
  const id = uniqueId("chart");
  const holder = h("div", { class: "plot-box", role: "img" });
  const words = note && h("p", { class: "note" });
  const node = h(
    "figure",
    { "aria-labelledby": id },
    h("figcaption", {}, h("h3", { id }, title), keys),
    holder,
    words,
    data?.node,
  );
  let shown = null;
  let width = 0;
  const render = () => {
    if (shown === null || width < 1) return;
    const plot = Plot.plot({ className: "plot", marginTop: 28, marginBottom: 40, insetTop: 2, ...draw(shown, Math.max(width, LEAST_WIDTH)) });
    plot.setAttribute("aria-hidden", "true"); // the sentence and the table are for those who listen
    fill(holder, plot);
  };
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width) return;
    width = now;
    requestAnimationFrame(render);
  }).observe(holder);
  return {
    node,
    update(given) {
      shown = given;
      holder.setAttribute("aria-label", describe(given));
      if (words) words.textContent = note(given);
      data?.update(rows(given));
      render();
    },
  };
}

export function bins(histogram, series) {
  return histogram[series].map((number, i) => ({
    low: histogram.edges[i],
    high: histogram.edges[i + 1],
    number,
  }));
}

/** The influence of drawn and selected samples, or of those never drawn as the audit sees them. */
export function influenceOptions(view, width) {
  const { histogram, threshold } = view.influence;
  const drawn = bins(histogram, "drawn");
  const selected = bins(histogram, "selected").filter((bin) => bin.number);
  const bar = { x1: "low", x2: "high", y: "number", insetLeft: 0.5, insetRight: 0.5 };
  return {
    width,
    height: 240,
    marginLeft: 48,
    marginRight: 16,
    x: { label: "influence (cosine) →", domain: [histogram.edges[0], histogram.edges.at(-1)] },
    y: { label: "↑ samples", grid: true, nice: true, tickFormat: "~s" },
    marks: [
      Plot.rectY(drawn, { ...bar, fill: "var(--drawn)" }),
      Plot.rectY(selected, { ...bar, fill: "var(--selected)" }),
      Plot.ruleY([0]),
      ...thresholdMarks(threshold, width),
      Plot.tip(
        drawn.map((bin, i) => ({ ...bin, selected: histogram.selected[i], middle: (bin.low + bin.high) / 2 })),
        Plot.pointerX({
          x: "middle",
          y: "number",
          title: (bin) =>
            `influence ${bin.low.toPrecision(3)} to ${bin.high.toPrecision(3)}\n${bin.number} drawn, ${bin.selected} selected`,
        }),
      ),
    ],
  };
}

export function undrawnOptions(view, width) {
  const { histogram, threshold, undrawn } = view.influence;
  const audited = histogram.audited.reduce((sum, number) => sum + number, 0);
  const scale = undrawn / audited;
  const estimate = bins(histogram, "audited").map((bin) => ({ ...bin, number: bin.number * scale }));
  return {
    width,
    height: 130,
    marginLeft: 48,
    marginRight: 16,
    x: { label: "influence (cosine) →", domain: [histogram.edges[0], histogram.edges.at(-1)] },
    y: { label: "↑ samples", grid: true, nice: true, ticks: 3, tickFormat: "~s" },
    marks: [
      Plot.rectY(estimate, {
        x1: "low",
        x2: "high",
        y: "number",
        insetLeft: 0.5,
        insetRight: 0.5,
        fill: "var(--pool)",
      }),
      Plot.ruleY([0]),
      ...thresholdMarks(threshold, width, ""),
    ],
  };
}

function thresholdMarks(threshold, width, words = "threshold") {
  if (threshold === null) return [];
  return [
    Plot.ruleX([threshold], { stroke: "var(--ink)", strokeDasharray: "3 3" }),
    Plot.text([words], { x: threshold, frameAnchor: "top", dx: 5, dy: -10, textAnchor: "start", fill: "var(--ink)" }),
  ];
}

/** How much of the selection was found as the budget was spent, against drawing at random. */
export function discoveryOptions(view, width) {
  const points = foundSoFar(view);
  const end = points.at(-1);
  return {
    width,
    height: 240,
    marginLeft: 48,
    marginRight: 20,
    x: { label: "draws so far →", domain: [0, end.draws], tickFormat: "~s" },
    y: { label: "↑ of the selection found (%)", domain: [0, 100], grid: true },
    marks: [
      Plot.lineY(atRandom(view, end.draws), { x: "x", y: "y", stroke: "var(--muted)", strokeWidth: 1.5, strokeDasharray: "4 3" }),
      Plot.lineY(points, { x: "draws", y: "share", stroke: "var(--selected)", strokeWidth: 2.5 }),
      Plot.dot(points.slice(1), { x: "draws", y: "share", fill: "var(--selected)", r: 2.5 }),
      Plot.tip(
        points.slice(1),
        Plot.pointerX({
          x: "draws",
          y: "share",
          title: (point) => `${point.name}\n${point.draws} draws, ${point.share.toFixed(0)} % of the selection`,
        }),
      ),
      Plot.ruleY([0]),
    ],
  };
}

/** What drawing at random from the pool would have found: as much of the best as of everything. */
function atRandom(view, draws) {
  return [{ x: 0, y: 0 }, { x: draws, y: (100 * draws) / view.pool.usable }];
}

export function foundSoFar(view) {
  const total = view.search.rounds.reduce((sum, round) => sum + round.selected, 0) || 1;
  let draws = 0;
  let found = 0;
  const points = view.search.rounds.map((round) => {
    draws += round.draws;
    found += round.selected;
    return { name: roundName(round), draws, share: (100 * found) / total };
  });
  return [{ name: "start", draws: 0, share: 0 }, ...points];
}

export function roundName({ first, last }) {
  if (first < 0) return "outside the search";
  if (last === 0) return "cold start";
  return first === last ? `round ${first}` : `rounds ${first} to ${last}`;
}

/** Mean and best influence round by round. */
export function roundsOptions(view, width) {
  const rounds = view.search.rounds.map((round, i) => ({ ...round, i }));
  const threshold = view.influence.threshold;
  const every = Math.ceil(rounds.length / Math.max(2, Math.floor(width / 44)));
  return {
    width,
    height: 240,
    marginLeft: 48,
    marginRight: 16,
    x: {
      label: "round →",
      domain: [-0.5, rounds.length - 0.5],
      ticks: rounds.map((round) => round.i).filter((i) => i % every === 0),
      tickFormat: (i) => String(rounds[i].last),
    },
    y: { label: "↑ influence", grid: true, nice: true },
    marks: [
      Plot.ruleY([0]),
      threshold === null ? null : Plot.ruleY([threshold], { stroke: "var(--ink)", strokeDasharray: "3 3" }),
      Plot.link(rounds, { x: "i", y1: "mean", y2: "best", stroke: "var(--drawn)", strokeOpacity: 0.35, strokeWidth: 2 }),
      Plot.dot(rounds, { x: "i", y: "best", stroke: "var(--selected)", strokeWidth: 1.8, r: 3, fill: "var(--surface)" }),
      Plot.dot(rounds, { x: "i", y: "mean", fill: "var(--drawn)", r: 3.5 }),
      Plot.tip(
        rounds,
        Plot.pointerX({
          x: "i",
          y: "best",
          title: (round) =>
            `${roundName(round)}: ${round.draws} draws\nmean ${round.mean.toFixed(4)}, best ${round.best.toFixed(4)}\n${round.selected} selected`,
        }),
      ),
    ],
  };
}

const ARMS_SHOWN = 24;

export function shownArms(view) {
  return view.search.arms.filter((arm) => arm.draws).slice(0, ARMS_SHOWN);
}

function armName(arm) {
  return `${arm.cluster}`;
}

/** Mean and spread of each arm; the dot grows with its draws. */
export function armsOptions(view, width) {
  const arms = shownArms(view);
  const most = Math.max(...arms.map((arm) => arm.draws));
  const threshold = view.influence.threshold;
  return {
    width,
    height: 64 + 20 * arms.length,
    marginTop: 8,
    marginLeft: 44,
    marginRight: 16,
    x: { label: "influence →", grid: true, nice: true },
    y: { domain: arms.map(armName), label: "arm", tickSize: 0 },
    r: { type: "sqrt", domain: [0, most], range: [2, 8] },
    marks: [
      threshold === null ? null : Plot.ruleX([threshold], { stroke: "var(--ink)", strokeDasharray: "3 3" }),
      Plot.link(arms, {
        x1: (arm) => arm.mean - (arm.std ?? 0),
        x2: (arm) => arm.mean + (arm.std ?? 0),
        y1: armName,
        y2: armName,
        stroke: "var(--drawn)",
        strokeWidth: 2,
        strokeOpacity: 0.6,
      }),
      Plot.tickX(arms, { x: "best", y: armName, stroke: "var(--selected)", strokeWidth: 2, insetTop: 4, insetBottom: 4 }),
      Plot.dot(arms, { x: "mean", y: armName, r: "draws", fill: "var(--drawn)", stroke: "var(--surface)" }),
      Plot.tip(arms, Plot.pointerX({ x: "mean", y: armName, title: armTitle })),
    ],
  };
}

function armTitle(arm) {
  const spread = arm.std === null ? "" : ` ± ${arm.std.toFixed(4)}`;
  const mostly = arm.sources.length ? `\nmostly ${arm.sources.map((name) => clipped(name, 28)).join(", ")}` : "";
  return (
    `arm ${arm.cluster}: ${arm.draws} of ${arm.size} drawn, ${arm.selected} selected\n` +
    `mean ${arm.mean.toFixed(4)}${spread}, best ${arm.best.toFixed(4)}${mostly}`
  );
}

export function clipped(text, characters) {
  return text.length > characters ? `${text.slice(0, characters - 1)}…` : text;
}

/** Draws of each arm over the rounds: the darker, the more of the round. */
export function drawsOptions(view, width) {
  const arms = shownArms(view);
  const rounds = view.search.rounds;
  const cells = arms.flatMap((arm) =>
    arm.draws_by_round.map((draws, i) => ({ arm, i, draws, share: draws / rounds[i].draws })).filter((cell) => cell.draws),
  );
  const every = Math.ceil(rounds.length / Math.max(2, Math.floor(width / 44)));
  return {
    width,
    height: 64 + 20 * arms.length,
    marginTop: 8,
    marginLeft: 44,
    marginRight: 8,
    x: {
      type: "band",
      domain: rounds.map((_, i) => i),
      label: "round →",
      padding: 0.06,
      ticks: rounds.map((_, i) => i).filter((i) => i % every === 0),
      tickFormat: (i) => String(rounds[i].last),
      tickSize: 0,
    },
    y: { domain: arms.map(armName), label: "arm", tickSize: 0, padding: 0.12 },
    opacity: { type: "sqrt", domain: [0, 1], range: [0.22, 1] },
    marks: [
      Plot.cell(cells, {
        x: "i",
        y: (cell) => armName(cell.arm),
        fill: "var(--drawn)",
        fillOpacity: "share",
        rx: 1.5,
        title: (cell) => `arm ${cell.arm.cluster}, ${roundName(rounds[cell.i])}: ${cell.draws} of ${rounds[cell.i].draws} draws`,
        tip: true,
      }),
    ],
  };
}

/** Each source's share of the pool, of the drawn and of the selected. */
export function sourcesOptions(view, width) {
  const sources = sourceShares(view).slice(0, 20);
  const names = sources.map((source) => source.name);
  const longest = Math.min(150, 16 + 6.4 * Math.max(...names.map((name) => Math.min(name.length, 22))));
  const dots = { y: "name", r: 4.5 };
  return {
    width,
    height: 64 + 22 * names.length,
    marginTop: 8,
    marginLeft: longest,
    marginRight: 20,
    x: { label: "share (%) →", grid: true, nice: true, zero: true },
    y: { domain: names, label: null, tickSize: 0, tickFormat: (name) => clipped(name, 22) },
    marks: [
      Plot.link(sources, { x1: "poolShare", x2: "selectedShare", y1: "name", y2: "name", stroke: "var(--pool)", strokeOpacity: 0.6 }),
      Plot.dot(sources, { ...dots, x: "poolShare", fill: "var(--pool)" }),
      Plot.dot(sources, { ...dots, x: "drawnShare", fill: "var(--drawn)" }),
      Plot.dot(sources, { ...dots, x: "selectedShare", fill: "var(--selected)" }),
      Plot.tip(
        sources,
        Plot.pointerX({
          x: "selectedShare",
          y: "name",
          title: (source) =>
            `${clipped(source.name, 40)}\n${source.poolShare.toFixed(1)} % of the pool, ` +
            `${source.drawnShare.toFixed(1)} % of the drawn, ${source.selectedShare.toFixed(1)} % of the selected`,
        }),
      ),
    ],
  };
}

export function sourceShares(view) {
  const all = [...view.composition.sources, ...(view.composition.rest ? [view.composition.rest] : [])];
  const total = (key) => all.reduce((sum, share) => sum + share[key], 0) || 1;
  const [pool, scored, selected] = ["pool", "scored", "selected"].map(total);
  return all.map((share) => ({
    ...share,
    poolShare: (100 * share.pool) / pool,
    drawnShare: (100 * share.scored) / scored,
    selectedShare: (100 * share.selected) / selected,
    lift: view.selected ? share.selected / selected / (share.pool / pool) : null,
  }));
}

/** Lengths as shares, so that pool, drawn and selected can be compared. */
export function lengthsOptions(view, width) {
  const { histogram } = view.lengths;
  const line = (series) => {
    const total = histogram[series].reduce((sum, number) => sum + number, 0) || 1;
    return bins(histogram, series).flatMap(({ low, high, number }) => [
      { tokens: low, share: (100 * number) / total },
      { tokens: high, share: (100 * number) / total },
    ]);
  };
  const series = view.selected ? ["pool", "drawn", "selected"] : ["pool", "drawn"];
  return {
    width,
    height: 240,
    marginLeft: 48,
    marginRight: 20,
    x: { type: "log", base: 2, label: "tokens of a sample →", ticks: Math.max(3, Math.floor(width / 70)), tickFormat: "~s" },
    y: { label: "↑ of the samples (%)", grid: true, nice: true, zero: true },
    marks: [
      Plot.areaY(line("pool"), { x: "tokens", y1: 0, y2: "share", fill: "var(--pool)", fillOpacity: 0.25 }),
      ...series.map((name) => Plot.lineY(line(name), { x: "tokens", y: "share", stroke: `var(--${name})`, strokeWidth: 2 })),
      Plot.ruleY([0]),
    ],
  };
}

/** What the run computed, against scoring everything. */
export function costOptions(view, width) {
  const costs = costShares(view);
  return {
    width,
    height: 64 + 30 * costs.length,
    marginTop: 8,
    marginLeft: 96,
    marginRight: 48,
    x: { label: "of scoring everything (%) →", domain: [0, Math.max(100, ...costs.map((cost) => cost.share))], grid: true },
    y: { domain: costs.map((cost) => cost.name), label: null, tickSize: 0, padding: 0.35 },
    marks: [
      Plot.barX(costs.map((cost) => ({ ...cost, share: 100 })), { x: "share", y: "name", fill: "var(--track)", rx: 3 }),
      Plot.barX(costs, { x: "share", y: "name", fill: "var(--drawn)", rx: 3 }),
      Plot.text(costs, { x: "share", y: "name", text: (cost) => `${cost.share.toFixed(0)} %`, textAnchor: "start", dx: 6, fill: "var(--ink)" }),
    ],
  };
}

export function costShares(view) {
  const { cost } = view;
  const shares = [
    ["gradients", cost.share_of_exhaustive_gradients],
    ["token passes", cost.share_of_exhaustive_tokens],
    ["worker time", cost.share_of_exhaustive_seconds],
  ];
  return shares.filter(([, share]) => share !== null).map(([name, share]) => ({ name, share: 100 * share }));
}

/** The audited recall and its interval. */
export function recallOptions(view, width) {
  const { audit } = view;
  const at = { y: "recall" };
  const row = [{ recall: 100 * audit.recall, low: 100 * audit.low, high: 100 * audit.high }];
  return {
    width,
    height: 94,
    marginTop: 8,
    marginLeft: 96,
    marginRight: 48,
    x: { label: "of the true best found (%) →", domain: [0, 100], grid: true },
    y: { domain: ["recall"], label: null, tickSize: 0 },
    marks: [
      Plot.link(row, { x1: "low", x2: "high", y1: () => at.y, y2: () => at.y, stroke: "var(--selected)", strokeWidth: 3, strokeOpacity: 0.5 }),
      Plot.tickX(row, { x: "low", y: () => at.y, stroke: "var(--selected)", strokeWidth: 2 }),
      Plot.tickX(row, { x: "high", y: () => at.y, stroke: "var(--selected)", strokeWidth: 2 }),
      Plot.dot(row, { x: "recall", y: () => at.y, r: 5.5, fill: "var(--selected)", stroke: "var(--surface)" }),
    ],
  };
}
