#!/usr/bin/env bash
# Makes plot.js anew: the part of Observable Plot that the page uses, with what it needs of D3, and their licences.
# Needs npm and a registry. The result is the same bytes every time; run it only to change a version or the exports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'JSON'
{"private": true, "dependencies": {"@observablehq/plot": "0.6.17", "d3": "7.9.0", "esbuild": "0.25.12"}}
JSON
npm install --silent --no-audit --no-fund --before=2026-01-01
cat > entry.mjs <<'JS'
export {
  plot, areaY, axisX, axisY, barX, cell, dot, gridX, gridY, lineY, link, pointerX, rectY, ruleX, ruleY, text, tickX, tip
} from "@observablehq/plot";
JS
npx esbuild entry.mjs --bundle --minify --format=iife --global-name=Plot --target=es2022 --charset=ascii \
  --legal-comments=none --metafile=meta.json --outfile=bundle.js --log-level=warning
{
  echo "/*! Parts of these packages:"
  node -e '
    const used = Object.values(require("./meta.json").outputs)[0].inputs;
    const names = Object.keys(used).filter(path => path.startsWith("node_modules/") && used[path].bytesInOutput)
      .map(path => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)[1]);
    const licences = {};
    for (const name of [...new Set(names)].sort()) {
      const {version, license} = require(`./node_modules/${name}/package.json`);
      const file = require("fs").readdirSync(`node_modules/${name}`).find(entry => /^licen[cs]e/i.test(entry));
      const text = require("fs").readFileSync(`node_modules/${name}/${file}`, "utf8").trim();
      (licences[text] ??= []).push(`${name} ${version} (${license})`);
    }
    for (const text in licences) console.log(`\n${licences[text].join(", ")}\n${text}`);'
  echo "*/"
  cat bundle.js
} > "$here/plot.js"
