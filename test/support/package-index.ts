import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

/** A wheel of one module with `size` random bytes, which no transport can compress. */
export function makeWheel(python: string, folder: string, name: string, size: number): void {
  const program = `
import base64, hashlib, os, sys, zipfile
folder, name, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
info = f"{name}-1.0.dist-info"
files = {
    f"{name}/__init__.py": b"",
    f"{name}/data": os.urandom(size),
    f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n".encode(),
    f"{info}/WHEEL": b"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}
def record(path, data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\\n"
files[f"{info}/RECORD"] = ("".join(record(*item) for item in files.items()) + f"{info}/RECORD,,\\n").encode()
with zipfile.ZipFile(f"{folder}/{name}-1.0-py3-none-any.whl", "w") as wheel:
    for path, data in files.items():
        wheel.writestr(path, data)
`;
  execFileSync(python, ["-I", "-c", program, folder, name, String(size)]);
}

export interface Asked {
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

/** A package index (PEP 503) over a folder of wheels on 127.0.0.1, which can break off. */
export class PackageIndex {
  readonly asked: Asked[] = [];
  /** Names of wheels whose next answers break off, and after how many bytes each. */
  readonly breaks = new Map<string, number[]>();
  readonly #server: Server;

  constructor(private readonly folder: string) {
    this.#server = createServer((message, response) => {
      const path = decodeURIComponent(message.url ?? "");
      const { range, authorization } = message.headers;
      this.asked.push({ path, range, authorization });
      const [, kind, name = ""] = /^\/(simple|files)\/([^/]+)/.exec(path) ?? [];
      const wheels = readdirSync(folder);
      if (kind === "files" && wheels.includes(name)) return this.#send(message, response, name);
      const own = wheels.filter((wheel) => wheel.startsWith(`${name.replaceAll("-", "_")}-`));
      if (kind !== "simple" || own.length === 0) return response.writeHead(404).end();
      const links = own.map((wheel) => `<a href="/files/${wheel}">${wheel}</a>`);
      response.writeHead(200, { "content-type": "text/html" }).end(`<!DOCTYPE html><html><body>${links}</body></html>`);
    });
  }

  #send(message: IncomingMessage, response: import("node:http").ServerResponse, name: string): void {
    const whole = readFileSync(join(this.folder, name));
    const start = Number(/^bytes=(\d+)-$/.exec(message.headers.range ?? "")?.[1] ?? 0);
    const body = whole.subarray(start);
    response.writeHead(start > 0 ? 206 : 200, {
      "content-type": "application/octet-stream",
      "content-length": body.length,
      "cache-control": "max-age=31536000, immutable",
      "accept-ranges": "bytes",
      etag: '"1"',
      ...(start > 0 ? { "content-range": `bytes ${start}-${whole.length - 1}/${whole.length}` } : {}),
    });
    const end = this.breaks.get(name)?.shift();
    if (end === undefined) response.end(body);
    else response.write(body.subarray(0, end), () => setTimeout(() => response.destroy(), 50));
  }

  async listen(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** With a user's name and password in it, as companies give them out. */
  url(credentials = ""): string {
    return `http://${credentials}127.0.0.1:${this.port}/simple`;
  }

  /** How often a wheel was asked for. */
  downloads(name: string): Asked[] {
    return this.asked.filter(({ path }) => path.startsWith(`/files/${name}-`));
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

/** An HTTP proxy on 127.0.0.1 that passes everything on to one port, whatever host was asked for. */
export async function startProxy(port: number): Promise<{ url: string; hosts: string[]; close: () => void }> {
  const hosts: string[] = [];
  const server = createServer((message, response) => {
    const { pathname, host } = new URL(message.url ?? "");
    hosts.push(host);
    const onward = request({ port, host: "127.0.0.1", path: pathname, headers: message.headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    message.pipe(onward);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    hosts,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
