// The files of the page, as answers to requests for app://local/…. A scheme of its own, and not file://, because a page from
// file:// may not load modules and has no origin that a Content-Security-Policy could name.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

const folder = import.meta.dirname;
// Packaged, the shared part of the page lies in the app (package.json, "build"); in the repository beside it.
const shared = [join(folder, "chat-ui"), join(folder, "../chat-ui")].find((path) => existsSync(path));

const types = { ".html": "text/html; charset=utf-8", ".mjs": "text/javascript", ".css": "text/css" };
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:";

/** The answer to a page's request: a file of renderer/, or under /ui/ of the shared part. */
export async function answer(url) {
  const path = normalize(decodeURIComponent(new URL(url).pathname));
  const file = path.startsWith("/ui/") ? join(shared, path.slice(4)) : join(folder, "renderer", path);
  const name = path === "/" ? join(file, "index.html") : file;
  try {
    const headers = { "content-type": types[extname(name)] ?? "text/plain", "content-security-policy": policy };
    return new Response(await readFile(name), { headers });
  } catch {
    return new Response(`no such file: ${path}`, { status: 404 });
  }
}
