// Elements made of data. Nothing here, or anywhere in the page, reads text as markup: strings become text nodes.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("p", {class: "x", onclick: f, style: {"--share": 0.5}}, "text", node, [nodes], null). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...flat(children));
  return element;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** An id that nothing else in the page has. */
export function uniqueId(stem) {
  uniqueId.last = (uniqueId.last ?? 0) + 1;
  return `${stem}-${uniqueId.last}`;
}

/** A small line drawing, for eyes only: beside it stands a text. `path` is one of ours, on a grid of 16. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" })) {
    svg.setAttribute(name, value);
  }
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
