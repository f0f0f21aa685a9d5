// A web chat over a model in this process: one page, the adapters in menus, answers streamed side by side.
// The only thing that listens is this example's own server.
//
//   node examples/web-chat/server.mjs <model repository> [port]
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";

const page = new URL("./index.html", import.meta.url);

/**
 * Starts the server and gives it once it listens. The browser talks to three routes: the page, the names of the models,
 * and chat completions, whose answer goes on to the browser as vLLM streams it.
 */
export async function serve(model, { port = 0, host = "127.0.0.1" } = {}) {
  const server = createServer((request, response) => {
    answer(model, request, response).catch((error) => {
      // A browser that went away is no failure.
      if (response.destroyed || request.destroyed) return;
      if (!response.headersSent) response.writeHead(500, { "content-type": "application/json" });
      response.end(JSON.stringify({ error: { message: error.cause?.message ?? error.message } }));
    });
  });
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  return server;
}

async function answer(model, request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (request.method === "GET" && pathname === "/") {
    response.writeHead(200, {
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": "default-src 'self' 'unsafe-inline'",
    });
    response.end(await readFile(page));
  } else if (request.method === "GET" && pathname === "/api/models") {
    const adapters = await model.adapters.list();
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify([model.name, ...adapters.map(({ name }) => name)]));
  } else if (request.method === "POST" && pathname === "/api/chat") {
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
  } else {
    response.writeHead(404).end();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { VllmModel } = await import("tritonode");
  const [modelRepository, port = "3000"] = process.argv.slice(2);
  const model = await VllmModel.load({ modelRepository });
  const server = await serve(model, { port: Number(port) });
  console.log(`http://127.0.0.1:${server.address().port}`);
  process.once("SIGINT", async () => {
    server.close();
    server.closeAllConnections();
    await model.dispose();
  });
}
