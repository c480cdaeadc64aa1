// The sections of a run's view. Each is made once and updated with every view, so that a live page keeps what its
// reader has opened, typed or chosen. `has(view)` says whether there is anything to show yet.

import { h, fill, uniqueId } from "./dom.js";
import { compact, count, duration, gib, influenceOf, moment, percent, plural, times } from "./format.js";
import { glossary, term } from "./terms.js";
import {
  armsOptions,
  bins,
  chart,
  costOptions,
  costShares,
  discoveryOptions,
  drawsOptions,
  foundSoFar,
  influenceOptions,
  legend,
  lengthsOptions,
  recallOptions,
  roundName,
  roundsOptions,
  shownArms,
  sourceShares,
  sourcesOptions,
  undrawnOptions,
} from "./charts.js";
import { dataTable, table } from "./tables.js";
import { samplesBrowser } from "./samples.js";

function section(name, title, lead, ...children) {
  const id = uniqueId("section");
  return h("section", { id: name, class: "card", "aria-labelledby": id, tabindex: "-1" }, h("h2", { id }, title), lead && h("p", { class: "lead" }, lead), children);
}

/** The figures that a glance is for. */
export function keyFigures() {
  const node = h("section", { "aria-label": "Key figures", class: "figures" });
  const tile = (name, value, ...words) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("strong", {}, value), h("span", {}, words)));
  return {
    node,
    has: (view) => view.pool !== null,
    update(view) {
      const { audit, cost, influence, pool, scored, search, selected, wanted } = view;
      const tiles = [];
      if (selected && !view.provisional) {
        tiles.push(tile(term("selected", "Selected"), count(selected), `${percent(selected / pool.usable)} of ${compact(pool.usable)} usable samples${influence.threshold === null ? "" : `; influence ${influenceOf(influence.threshold)} and above`}`));
      } else {
        tiles.push(tile(term("selected", "To select"), count(wanted), `${percent(wanted / pool.usable)} of ${compact(pool.usable)} usable samples`));
      }
      tiles.push(tile(term("drawn", "Scored"), count(scored), search ? `${percent(scored / pool.usable)} of the pool; the budget buys ${count(search.limit)}` : "nothing yet"));
      tiles.push(
        audit
          ? tile(term("recall", "Recall"), percent(audit.recall), `${percent(audit.confidence)} interval ${percent(audit.low)} to ${percent(audit.high)}, from ${count(audit.audited)} audited`)
          : tile(term("recall", "Recall"), "–", view.targets.length ? "each target has its own, below" : view.provisional ? "the audit comes last" : "no audit was made"),
      );
      if (cost) {
        const share = cost.share_of_exhaustive_gradients;
        tiles.push(tile(term("exhaustive", "Cost"), percent(share), `of the gradients that scoring everything takes${cost.share_of_exhaustive_seconds === null ? "" : `; ${percent(cost.share_of_exhaustive_seconds)} of the worker time`}`));
      }
      if (influence) {
        tiles.push(tile(term("influence", "Influence"), influence.selected_median === null ? influenceOf(influence.drawn_median) : influenceOf(influence.selected_median), influence.selected_median === null ? "median of the drawn" : `median of the selected; ${influenceOf(influence.drawn_median)} of the drawn`));
      }
      fill(node, h("dl", {}, tiles));
    },
  };
}

/** How far the stages are; for runs that are not over. */
export function progressSection() {
  const words = h("p", { class: "lead" });
  const list = h("ul", { class: "stages" });
  const node = section("progress", "Progress", null, words, list);
  return {
    node,
    title: "Progress",
    has: (view) => view.progress.state !== "finished",
    update(view) {
      const { progress } = view;
      words.textContent = progress.waiting ? `Waiting: ${progress.waiting}` : stateWords(progress);
      fill(list, progress.stages.map(stageLine));
    },
  };
}

function stateWords(progress) {
  const resumed = progress.resumed ? `, taken up again ${progress.resumed === 1 ? "once" : `${progress.resumed} times`}` : "";
  const lost = progress.lost ? `; ${plural(progress.lost, "worker")} lost and replaced` : "";
  const workers = progress.workers ? `${plural(progress.workers, "worker")}${lost}` : "no worker yet";
  return {
    prepared: "Reading pool and target; no worker has started.",
    running: `Running with ${workers}. Began ${moment(progress.began)}${resumed}.`,
    cancelled: `Stopped ${moment(progress.latest)}. What was scored is kept: running it again goes on.`,
    failed: `Ended with an error ${moment(progress.latest)}. What was scored is kept: running it again goes on.`,
    finished: `Finished ${moment(progress.latest)}.`,
  }[progress.state];
}

function stageLine(stage) {
  const done = Math.min(stage.done, stage.total);
  const share = stage.ended !== null ? 1 : stage.total ? done / stage.total : 0;
  const label = uniqueId("stage");
  const rate = stage.seconds ? `${compact(stage.tokens / stage.seconds)} tokens/s a worker` : "";
  const best = stage.best === null ? "" : `best influence ${influenceOf(stage.best)}`;
  const failed = stage.failed ? `${count(stage.failed)} could not be scored` : "";
  return h(
    "li",
    { class: stage.ended === null ? "active" : "ended" },
    h("span", { class: "stage-name", id: label }, stage.stage),
    h("progress", { max: "1", value: String(share), "aria-labelledby": label }, percent(share)),
    h("span", { class: "stage-count" }, `${count(stage.done)} of ${count(stage.total)}`),
    h("span", { class: "stage-note" }, [rate, best, failed].filter(Boolean).join(" · ")),
  );
}

export function influenceSection() {
  const main = chart({
    title: "Influence of the drawn samples",
    keys: legend("drawn", "selected"),
    describe: ({ influence, scored, selected }) =>
      `Histogram of the influence of ${scored} drawn samples, ${selected} of them selected` +
      (influence.threshold === null ? "." : `, all at ${influence.threshold.toFixed(4)} or above.`),
    draw: influenceOptions,
    data: dataTable({
      caption: "Influence of drawn and selected samples, by bin",
      columns: [
        { head: "From", number: true, cell: (bin) => bin.low.toPrecision(4) },
        { head: "To", number: true, cell: (bin) => bin.high.toPrecision(4) },
        { head: "Drawn", number: true, cell: (bin) => count(bin.number) },
        { head: "Selected", number: true, cell: (bin) => count(bin.selected) },
      ],
    }),
    rows: ({ influence }) => bins(influence.histogram, "drawn").map((bin, i) => ({ ...bin, selected: influence.histogram.selected[i] })).filter((bin) => bin.number),
  });
  const undrawn = chart({
    title: "Samples never drawn, as the audit sees them",
    keys: legend("undrawn"),
    describe: (view) => `Estimated influence of the ${view.influence.undrawn} samples that were never drawn. ${auditWords(view)}`,
    draw: undrawnOptions,
    note: auditWords,
  });
  const node = section(
    "influence",
    [term("influence", "Influence")],
    "The cosine between a sample's gradient and the target's: the further right, the more a training step on the sample helps with the target.",
    main.node,
    undrawn.node,
  );
  return {
    node,
    title: "Influence",
    has: (view) => view.influence !== null,
    update(view) {
      main.update(view);
      const audited = view.influence.histogram.audited !== null && view.influence.undrawn > 0;
      undrawn.node.hidden = !audited;
      if (audited) undrawn.update(view);
    },
  };
}

function auditWords({ influence }) {
  const audited = influence.histogram.audited?.reduce((sum, number) => sum + number, 0) ?? 0;
  return `Each of the ${plural(audited, "audited sample")} stands for ${(influence.undrawn / Math.max(audited, 1)).toFixed(1)} that were never drawn; what lies right of the threshold was missed.`;
}

export function costSection() {
  const costs = chart({
    title: "Cost of this run",
    describe: (view) => `Against scoring everything: ${costShares(view).map(({ name, share }) => `${share.toFixed(0)} % of the ${name}`).join(", ")}.`,
    draw: costOptions,
  });
  const recall = chart({
    title: "What it found",
    describe: recallWords,
    draw: recallOptions,
    note: recallWords,
  });
  const none = h("p", { class: "none" });
  const targets = table({
    caption: "Targets",
    hideCaption: false,
    columns: [
      { head: "Target", first: true, wide: true, cell: (target) => target.name },
      { head: "Weight", number: true, cell: (target) => compact(target.weight) },
      { head: "Selected for it", number: true, cell: (target) => count(target.selected) },
      { head: "In the joint selection", number: true, cell: (target) => count(target.in_joint) },
      { head: "Threshold", number: true, cell: (target) => influenceOf(target.threshold) },
      { head: "Passed over by caps", number: true, cell: (target) => count(target.caps.reduce((sum, cap) => sum + cap.left_out, 0)) },
      { head: "Median answer", number: true, cell: ({ label_tokens: lengths }) => (lengths.selected ? count(lengths.selected.median) : "–") },
      { head: "Influence with length", number: true, cell: ({ label_tokens: lengths }) => (lengths.rank_correlation === null ? "–" : lengths.rank_correlation.toFixed(2)) },
      { head: "Recall", number: true, cell: ({ audit }) => (audit ? `${percent(audit.recall)} (${percent(audit.low)} to ${percent(audit.high)})` : "–") },
    ],
  });
  const stages = dataTable({
    caption: "Cost by stage",
    columns: [
      { head: "Stage", first: true, cell: (cost) => cost.stage },
      { head: "Samples", number: true, cell: (cost) => count(cost.samples) },
      { head: "Tokens", number: true, cell: (cost) => count(cost.tokens) },
      { head: "Forward", number: true, cell: (cost) => count(cost.forward_passes) },
      { head: "Backward", number: true, cell: (cost) => count(cost.backward_passes) },
      { head: "Worker time", number: true, cell: (cost) => duration(cost.seconds) },
    ],
    rowClass: (cost) => (cost.stage === "exhaustive" ? "total" : null),
  });
  const node = section(
    "cost",
    [term("exhaustive", "Cost"), " and ", term("recall", "recall")],
    "What the run computed, features, target and audit included, against scoring every sample; and how much of the true best it found for that.",
    costs.node,
    recall.node,
    none,
    targets.node,
    stages.node,
  );
  return {
    node,
    title: "Cost and recall",
    has: (view) => view.cost !== null && view.cost.stages.length > 0,
    update(view) {
      costs.update(view);
      recall.node.hidden = view.audit === null;
      none.hidden = view.audit !== null || view.targets.length > 0;
      targets.node.hidden = view.targets.length === 0;
      targets.update(view.targets);
      if (view.audit) recall.update(view);
      else none.textContent = view.provisional ? "Recall is estimated by the audit, the last stage of a run." : "No audit was made, so recall is not known.";
      stages.update([...view.cost.stages, view.cost.exhaustive]);
    },
  };
}

function recallWords({ audit, selected }) {
  return (
    `About ${percent(audit.recall)} of the pool's true best ${count(selected)} were drawn ` +
    `(${percent(audit.confidence)} interval ${percent(audit.low)} to ${percent(audit.high)}), ` +
    `as ${plural(audit.audited, "undrawn sample")}, scored to check, tell.`
  );
}

export function budgetSection() {
  const discovery = chart({
    title: "Of the selection, found so far",
    describe: (view) => `The selection as it was found over ${view.scored} draws. As many draws at random would find about ${percent(view.scored / view.pool.usable)} of the best.`,
    draw: discoveryOptions,
    note: (view) => `Solid: this run. Dashed: drawing at random, which would find ${percent(view.scored / view.pool.usable)} of the best with as many draws.`,
    data: dataTable({
      caption: "Draws and finds by round",
      columns: [
        { head: "Rounds", first: true, cell: (row) => row.name },
        { head: "Draws", number: true, cell: (row) => count(row.draws) },
        { head: "Mean influence", number: true, cell: (row) => influenceOf(row.mean) },
        { head: "Best", number: true, cell: (row) => influenceOf(row.best) },
        { head: "Selected", number: true, cell: (row) => count(row.selected) },
        { head: "Found so far", number: true, cell: (row) => `${row.share.toFixed(0)} %` },
      ],
    }),
    rows: (view) => {
      const points = foundSoFar(view).slice(1);
      return view.search.rounds.map((round, i) => ({ ...round, name: roundName(round), share: points[i].share }));
    },
  });
  const rounds = chart({
    title: "Influence by round",
    describe: (view) => `Mean and best influence of ${view.search.rounds.length} groups of draws, round by round.`,
    draw: roundsOptions,
    note: () => "Filled: mean of the round's draws. Ring: the best of them. Dashed: the threshold of the selection.",
  });
  const words = h("p", { class: "lead" });
  const node = section("budget", [term("budget", "Budget"), " over ", term("round", "rounds")], null, words, h("div", { class: "pair" }, discovery.node, rounds.node));
  return {
    node,
    title: "Budget",
    has: (view) => view.search !== null && view.search.rounds.length > 0,
    update(view) {
      const { search } = view;
      words.textContent = `${count(search.drawn)} of ${count(search.limit)} draws are spent${view.provisional ? "; the selection is what it would be if the run ended now" : ""}. Each round goes where the rounds before it found influence, or know too little.`;
      discovery.update(view);
      rounds.update(view);
    },
  };
}

export function armsSection() {
  const arms = chart({
    title: "Mean, spread and best",
    describe: (view) => `Mean influence and standard deviation of ${shownArms(view).length} arms, the most selected first.`,
    draw: armsOptions,
    note: () => "Dot: mean, larger with more draws. Line: one standard deviation each way. Tick: best. Dashed: threshold.",
  });
  const draws = chart({
    title: "Draws over rounds",
    describe: (view) => `How many of each round's draws went to each of ${shownArms(view).length} arms.`,
    draw: drawsOptions,
    note: () => "The darker, the more of the round's draws.",
  });
  const rows = dataTable({
    caption: "Arms",
    columns: [
      { head: "Arm", first: true, cell: (arm) => arm.cluster },
      { head: "Size", number: true, cell: (arm) => count(arm.size) },
      { head: "Drawn", number: true, cell: (arm) => count(arm.draws) },
      { head: "Selected", number: true, cell: (arm) => count(arm.selected) },
      { head: "Mean", number: true, cell: (arm) => influenceOf(arm.mean) },
      { head: "Spread", number: true, cell: (arm) => influenceOf(arm.std) },
      { head: "Best", number: true, cell: (arm) => influenceOf(arm.best) },
      { head: "Mostly from", wide: true, cell: (arm) => (arm.sources.length ? `${arm.sources.join(", ")} (${percent(arm.source_share)})` : "–") },
    ],
  });
  const words = h("p", { class: "lead" });
  const node = section("arms", ["Clusters as ", term("arm", "arms")], null, words, h("div", { class: "pair aligned" }, arms.node, draws.node), rows.node);
  return {
    node,
    title: "Arms",
    has: (view) => view.search !== null && shownArms(view).length > 0,
    update(view) {
      const { search } = view;
      const shown = shownArms(view).length;
      const left = search.num_arms - shown;
      words.textContent = `${plural(search.num_arms, "cluster")} of similar samples; the search draws more from those whose influence is high or uncertain.${left > 0 ? ` The ${shown} with the most selected samples are drawn here.` : ""}`;
      arms.update(view);
      draws.update(view);
      const rest = search.other_arms;
      rows.update([
        ...search.arms,
        ...(rest ? [{ cluster: rest.name, size: rest.pool, draws: rest.scored, selected: rest.selected, mean: null, std: null, best: null, sources: [] }] : []),
      ]);
    },
  };
}

export function sourcesSection() {
  const shares = chart({
    title: "Share by source",
    keys: legend("pool", "drawn", "selected"),
    describe: (view) => `Share of ${Math.min(20, view.composition.sources.length)} sources in the pool, among the drawn and among the selected samples.`,
    draw: sourcesOptions,
  });
  const rows = table({
    caption: "Samples by source",
    columns: [
      { head: "Source", first: true, wide: true, cell: (share) => share.name },
      { head: "Pool", number: true, cell: (share) => count(share.pool) },
      { head: "Drawn", number: true, cell: (share) => count(share.scored) },
      { head: "Selected", number: true, cell: (share) => count(share.selected) },
      { head: "Lift", number: true, cell: (share) => times(share.lift) },
    ],
  });
  const caps = table({
    caption: "What the caps left out",
    hideCaption: false,
    columns: [
      { head: "Cap", first: true, cell: (cap) => cap.cap.replaceAll("_", " ") },
      { head: "Of a group", number: true, cell: (cap) => count(cap.limit) },
      { head: "Full groups", number: true, cell: (cap) => count(cap.full) },
      { head: "Better samples passed over", number: true, cell: (cap) => count(cap.left_out) },
      { head: "Most of them from", wide: true, cell: (cap) => cap.most.map(([name, number]) => `${name} (${count(number)})`).join(", ") || "–" },
    ],
  });
  const node = section("sources", "Sources", ["Where the selected samples come from, against the pool. ", term("lift", "Lift"), " above 1× means picked more often than at random."], h("div", { class: "pair" }, shares.node, rows.node), caps.node);
  return {
    node,
    title: "Sources",
    has: (view) => view.composition !== null,
    update(view) {
      shares.update(view);
      rows.update(sourceShares(view));
      caps.node.hidden = view.caps.length === 0;
      caps.update(view.caps);
    },
  };
}

export function lengthsSection() {
  const lengths = chart({
    title: "Length of the samples",
    keys: legend("pool", "drawn", "selected"),
    describe: ({ lengths: found }) => `Distribution of sample lengths in tokens. Median ${count(found.pool_median)} in the pool, ${count(found.drawn_median)} drawn, ${count(found.selected_median)} selected.`,
    draw: lengthsOptions,
  });
  const medians = table({
    caption: "Lengths in tokens: median of the samples, and of their answers the tenth, median and ninetieth of a hundred",
    hideCaption: false,
    columns: [
      { head: "Of", first: true, cell: (row) => row.name },
      { head: "Sample", number: true, cell: (row) => count(row.tokens) },
      { head: "Short answer", number: true, cell: (row) => count(row.answers.p10) },
      { head: "Answer", number: true, cell: (row) => count(row.answers.median) },
      { head: "Long answer", number: true, cell: (row) => count(row.answers.p90) },
    ],
  });
  const bias = h("p", { class: "lead" });
  const node = section(
    "lengths",
    "Lengths",
    ["Gradient influence is known to favour samples with few ", term("label tokens", "label tokens"), ": look whether the selection is much shorter than the pool."],
    bias,
    lengths.node,
    medians.node,
  );
  return {
    node,
    title: "Lengths",
    has: (view) => view.lengths !== null,
    update(view) {
      const found = view.lengths;
      lengths.update(view);
      medians.update([
        { name: "Pool", tokens: found.pool_median, answers: found.answers.pool },
        { name: "Drawn", tokens: found.drawn_median, answers: found.answers.scored },
        ...(found.answers.selected === null ? [] : [{ name: "Selected", tokens: found.selected_median, answers: found.answers.selected }]),
      ]);
      bias.textContent = biasWords(found.answers);
    },
  };
}

function biasWords({ rank_correlation: correlation, strong }) {
  if (correlation === null) return "All answers, or all influences, are the same: nothing goes by length.";
  const words = `Rank correlation of influence with answer length, over what was drawn: ${correlation < 0 ? "−" : ""}${Math.abs(correlation).toFixed(2)}`;
  return strong ? `${words}. That is strong: selection.normalise can correct for it.` : `${words}, which is weak.`;
}

export function samplesSection() {
  const browser = samplesBrowser();
  const words = h("p", { class: "lead" });
  const node = section("samples", "Samples", null, words, browser.node);
  return {
    node,
    title: "Samples",
    has: (view) => view.samples !== null,
    update(view) {
      words.textContent = view.provisional
        ? "The best so far. Texts are shown once the run has ended."
        : view.targets.length
          ? `The joint selection of ${view.targets.map((target) => target.name).join(", ")}; each target's own is a file of its own. A sample's subtask begins with the name of its target.`
          : "Read what was selected, and what just missed it: numbers alone have fooled many.";
      browser.update(view);
    },
  };
}

/** How the run was made: what there is to check, and to do it again. */
export function recordSection() {
  const facts = h("dl", { class: "facts" });
  const notes = h("ul", { class: "notes" });
  const notesBox = h("div", {}, h("h3", {}, "Notes"), notes);
  const settings = h("pre", { tabindex: "0", "aria-label": "Settings" });
  const node = section(
    "record",
    "Record",
    "What the run was asked for and what it ran on.",
    facts,
    notesBox,
    h("details", { class: "data" }, h("summary", {}, "Settings"), settings),
    h("details", { class: "data" }, h("summary", {}, "The words used here"), glossary()),
  );
  return {
    node,
    title: "Record",
    has: () => true,
    update(view) {
      const { pool, progress, setup, workers } = view;
      const used = Object.entries(setup.versions).filter(([, version]) => version !== "not installed");
      const rows = [
        ["Model", setup.model],
        ["Adapter", setup.adapter ?? "fresh"],
        ["Adam moments", setup.moments ?? "none: plain gradients"],
        ["Pool", pool ? `${setup.pool}: ${plural(pool.samples, "sample")}, ${compact(pool.tokens)} tokens` : setup.pool],
        ["Target", pool ? `${setup.target}: ${plural(pool.target_examples, "example")}${pool.subtasks.length > 1 ? ` in ${pool.subtasks.length} subtasks` : ""}` : setup.target],
        ["Features", setup.features],
        ["Allocator", `${setup.allocator}, budget ${percent(setup.budget)}`],
        ["Seed", setup.seed],
        ["Cut to tokens.max_length", pool ? plural(pool.truncated, "sample") : null],
        ["Could not be scored", pool && Object.keys(pool.excluded).length ? Object.entries(pool.excluded).map(([reason, number]) => `${count(number)} ${reason.replaceAll("_", " ")}`).join(", ") : pool ? "none" : null],
        ["Began", moment(progress.began)],
        [progress.state === "finished" ? "Ended" : "Last event", moment(progress.latest)],
        ["Wall time", progress.began && progress.latest ? duration(progress.latest - progress.began) : null],
        ["Workers", workers.length ? workers.map((worker) => `${worker.device} (peak ${gib(worker.peak_host_gib)}${worker.peak_device_gib ? `, ${gib(worker.peak_device_gib)} on the device` : ""})`).join(", ") : null],
        ["Versions", used.map(([name, version]) => `${name} ${version}`).join(", ")],
        ["Revision", setup.git_sha],
      ];
      fill(facts, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
      const lines = [...progress.notes, ...(progress.more_notes ? [`and ${count(progress.more_notes)} more, in events.jsonl`] : [])];
      fill(notes, lines.map((line) => h("li", {}, line)));
      notesBox.hidden = !lines.length;
      settings.textContent = JSON.stringify(setup.settings, null, 2);
    },
  };
}
