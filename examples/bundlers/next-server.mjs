// Runs the standalone output of the Next.js app for as long as a function asks it.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts `server.js` of `deployed` with `cwd` as its working directory; `use` gets a function that POSTs a request. */
export async function serveNext(deployed, cwd, modelRepository, use) {
  const port = await freePort();
  const server = spawn(process.execPath, [join(deployed, "server.js")], {
    cwd,
    env: { ...process.env, PORT: String(port), HOSTNAME: "127.0.0.1", MODEL_REPOSITORY: modelRepository },
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ended = once(server, "close");
  const url = `http://127.0.0.1:${port}`;
  try {
    const deadline = Date.now() + 30_000;
    while (
      !(await fetch(url).then(
        (response) => response.ok,
        () => false,
      ))
    ) {
      if (server.exitCode !== null || Date.now() > deadline) throw new Error(`${deployed} does not serve`);
      await sleep(100);
    }
    await use(async (request) => {
      const response = await fetch(`${url}/api/generate`, { method: "POST", body: JSON.stringify(request) });
      return { status: response.status, text: await response.text() };
    });
  } finally {
    server.kill("SIGTERM");
    await ended;
  }
}
