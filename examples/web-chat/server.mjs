// A web chat over a model in this process: the base model and its adapters answer side by side, and a browser can load more
// adapters. The only thing that listens is this example's own server.
//
//   node examples/web-chat/server.mjs MODEL [port]      a model's folder, a GGUF file, or a model repository
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { AdapterUploads } from "./uploads.mjs";

/** What the browser may read, and where it lies. */
const pages = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/app.mjs": ["app.mjs", "text/javascript"],
  ...Object.fromEntries(
    ["chat.mjs", "column.mjs", "folder.mjs", "sse.mjs"].map((name) => [
      `/ui/${name}`,
      [`../chat-ui/${name}`, "text/javascript"],
    ]),
  ),
  "/ui/chat.css": ["../chat-ui/chat.css", "text/css"],
};
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:";

/** Starts the server and gives it once it listens. Adapters that browsers send are kept until it is closed. */
export async function serve(model, { port = 0, host = "127.0.0.1" } = {}) {
  const uploads = new AdapterUploads(model);
  const server = createServer((request, response) => {
    answer(model, uploads, request, response).catch((error) => {
      // A browser that went away is no failure.
      if (response.destroyed || request.destroyed) return;
      if (response.headersSent) response.destroy();
      else reply(response, error.status ?? 500, { error: { message: error.cause?.message ?? error.message } });
    });
  });
  server.once("close", () => uploads.remove());
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  return server;
}

function reply(response, status, value) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

async function answer(model, uploads, request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  const route = `${request.method} ${pathname}`;
  // Another site's page may not use this server through its visitor's browser.
  const { origin, host } = request.headers;
  if (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}`) {
    reply(response, 403, { error: { message: `requests from ${origin} are not answered` } });
  } else if (request.method === "GET" && Object.hasOwn(pages, pathname)) {
    const [file, type] = pages[pathname];
    response.writeHead(200, { "content-type": type, "content-security-policy": policy });
    response.end(await readFile(new URL(file, import.meta.url)));
  } else if (route === "GET /api/models") {
    const adapters = await model.adapters.list();
    reply(response, 200, [model.name, ...adapters.map(({ name }) => name)]);
  } else if (route === "POST /api/chat") {
    await chat(model, request, response);
  } else if (pathname.startsWith("/api/adapters/")) {
    const [name, file] = pathname.slice("/api/adapters/".length).split("/").map(decodeURIComponent);
    if (request.method === "PUT") reply(response, 200, await uploads.receive(name, file, request));
    else if (request.method === "POST") reply(response, 200, await uploads.load(name));
    else response.writeHead(405).end();
  } else {
    reply(response, 404, { error: { message: `no such route: ${route}` } });
  }
}

/** A chat completion, whose answer is streamed to the browser as vLLM generates it. */
async function chat(model, request, response) {
  // The browser's tab is closed, or its "stop" pressed: vLLM stops too.
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  const upstream = await model.fetch("chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: Readable.toWeb(request),
    signal: gone.signal,
  });
  response.writeHead(upstream.status, { "content-type": upstream.headers.get("content-type") ?? "text/plain" });
  await pipeline(Readable.fromWeb(upstream.body), response);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { VllmModel } = await import("tritonode");
  const [path, port = "3000"] = process.argv.slice(2);
  // A model repository has no config.json of its own; its models say themselves whether they take adapters.
  const isModel = path?.endsWith(".gguf") || existsSync(join(path ?? ".", "config.json"));
  const model = await VllmModel.load(
    isModel ? { engine: { model: path, enable_lora: true, max_lora_rank: 64 }, loras: {} } : { modelRepository: path },
  );
  const server = await serve(model, { port: Number(port) });
  console.log(`http://127.0.0.1:${server.address().port}`);
  process.once("SIGINT", async () => {
    server.close();
    server.closeAllConnections();
    await model.dispose();
  });
}
