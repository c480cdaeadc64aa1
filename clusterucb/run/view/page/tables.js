// Tables: real ones, with captions, headers and numbers aligned.

import { h, fill } from "./dom.js";

/** columns: {head, number?, cell(row), wide?}. Returns {node, update(rows)}; `foot` makes a last row of the rows. */
export function table({ caption, columns, hideCaption = true, empty = "Nothing yet.", rowClass = null }) {
  const heads = columns.map(({ head, number }) => h("th", { scope: "col", class: number ? "number" : null }, head));
  const body = h("tbody");
  const node = h(
    "div",
    { class: "table-box", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: hideCaption ? "sr-only" : null }, caption),
      h("thead", {}, h("tr", {}, heads)),
      body,
    ),
  );
  function cells(row) {
    return columns.map(({ number, cell, first, wide }) => {
      const attributes = { class: [number && "number", wide && "wide"].filter(Boolean).join(" ") || null };
      return first ? h("th", { scope: "row", ...attributes }, cell(row)) : h("td", attributes, cell(row));
    });
  }
  return {
    node,
    update(rows) {
      const lines = rows.map((row) => h("tr", { class: rowClass ? rowClass(row) : null }, cells(row)));
      fill(body, lines.length ? lines : h("tr", {}, h("td", { colspan: columns.length, class: "none" }, empty)));
    },
  };
}

/** A table folded away below a chart: the same data for those who cannot see it, or want the numbers. */
export function dataTable(options) {
  const inner = table(options);
  const node = h("details", { class: "data" }, h("summary", {}, `Data: ${options.caption}`), inner.node);
  return { node, update: inner.update };
}
