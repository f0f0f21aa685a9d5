// What a link checker and a look at the network would find in the built site: links to pages or headings that are not
// there, and anything that a page would load from another host.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, extname, join, resolve } from "node:path";

/** @param {string} site the folder of the built pages @returns {string[]} one line for each defect */
export function checkSite(site) {
  const files = readdirSync(site, { recursive: true }).map(String);
  const defects = [];
  const anchors = new Map();
  for (const file of files) {
    if (extname(file) !== ".html") continue;
    const html = readFileSync(join(site, file), "utf8");
    anchors.set(resolve(site, file), new Set([...html.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => unescapeHtml(id))));
  }
  for (const file of files) {
    const path = join(site, file);
    if (extname(file) === ".css") {
      const css = readFileSync(path, "utf8");
      for (const [, url] of css.matchAll(/(?:url\(|@import )["']?((?:https?:)?\/\/[^"')]*)/g)) {
        defects.push(`${file} loads ${url}`);
      }
    }
    if (extname(file) !== ".html") continue;
    const html = readFileSync(path, "utf8");
    // Fonts, scripts, pictures, styles: what a browser loads by itself.
    for (const [tag, url] of html.matchAll(
      /<(?:script|img|iframe|source|video|audio|link)\b[^>]*?\s(?:src|href)="([^"]*)"/g,
    )) {
      if (/^(https?:)?\/\//.test(url) && !tag.includes('rel="canonical"')) defects.push(`${file} loads ${url}`);
    }
    for (const [, raw] of html.matchAll(/<a\b[^>]*?\shref="([^"]*)"/g)) {
      const href = unescapeHtml(raw);
      if (/^[a-z]+:/i.test(href)) continue;
      const [target, anchor] = href.split("#");
      let page =
        target === "" ? resolve(path) : target.startsWith("/") ? join(site, target) : resolve(dirname(path), target);
      if (page.endsWith("/") || target.endsWith("/")) page = join(page, "index.html");
      if (!existsSync(page)) defects.push(`${file} links to ${href}, which is not there`);
      else if (anchor && anchors.get(resolve(page))?.has(decodeURIComponent(anchor)) === false) {
        defects.push(`${file} links to ${href}: the page has no such heading`);
      }
    }
  }
  return defects;
}

function unescapeHtml(text) {
  return text
    .replaceAll("&quot;", '"')
    .replaceAll("&#39;", "'")
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&amp;", "&");
}
