import { onAbort, unlessAborted } from "../../common/abort";
import type { ResponseStream } from "../../server";
import type { Backend } from "../backend";
import { partsOf, type ResponseHead, sendHttp, sendRead } from "./http";

/** Relative URLs are relative to this; the host of an absolute URL is ignored. */
const base = "http://localhost/v1/";
/** Bytes of a body that are sent before they are read: some thousand pieces of a streamed chat. */
const window = 256 << 10;
/** The limit of redirects in the standard (https://fetch.spec.whatwg.org/#http-redirect-fetch). */
const maxRedirects = 20;
/** Statuses whose response has no body (https://fetch.spec.whatwg.org/#null-body-status). */
const withoutBody = new Set([101, 103, 204, 205, 304]);

/** A WHATWG `fetch` whose server is the model's backend. */
export function createFetch(backend: Backend): typeof globalThis.fetch {
  return async (input, init) => {
    const request = toRequest(input as string | URL | Request, init as RequestInit | undefined);
    // The caller's own signal: the one of `request` follows it only as long as `request` is alive.
    const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined) ?? undefined;
    signal?.throwIfAborted();
    const body = request.body === null ? undefined : new Uint8Array(await unlessAborted(request.arrayBuffer(), signal));
    return follow(backend, request, body, signal);
  };
}

function toRequest(input: string | URL | Request, init: RequestInit | undefined): Request {
  const url = input instanceof Request ? input : new URL(input, base);
  if (url instanceof URL && url.protocol !== "http:" && url.protocol !== "https:") {
    throw new TypeError("fetch failed", { cause: new Error(`unknown scheme ${url.protocol} of ${url.href}`) });
  }
  // A streamed body needs `duplex`, which callers often leave out.
  const streamed = init?.body !== undefined && init.body !== null && (init as { duplex?: string }).duplex === undefined;
  return new Request(url, streamed ? ({ ...init, duplex: "half" } as RequestInit) : init);
}

/** Sends the request and follows redirects. */
async function follow(
  backend: Backend,
  request: Request,
  body: Uint8Array | undefined,
  signal: AbortSignal | undefined,
): Promise<Response> {
  let url = new URL(request.url);
  let { method } = request;
  let content = body;
  const headers = new Headers(request.headers);
  if (!headers.has("accept")) headers.set("accept", "*/*");
  for (let redirects = 0; ; redirects++) {
    headers.set("host", url.host);
    if (content === undefined) headers.delete("content-length");
    else headers.set("content-length", String(content.byteLength));
    const head = { method, path: url.pathname + url.search, headers: [...headers], window };
    const response = await exchange(backend, head, content, signal);
    Object.defineProperties(response, { url: { value: url.href }, redirected: { value: redirects > 0 } });
    const location = response.headers.get("location");
    const redirected = [301, 302, 303, 307, 308].includes(response.status) && location !== null;
    if (!redirected || request.redirect === "manual") return response;
    await response.body?.cancel();
    if (request.redirect === "error") throw failed(new Error("unexpected redirect"));
    if (redirects === maxRedirects) throw failed(new Error("redirect count exceeded"));
    url = new URL(location, url);
    // As in the standard: after a 303, and after a 301 or 302 to a POST, the next request is a GET.
    const asGet = response.status === 303 ? method !== "HEAD" : response.status < 303 && method === "POST";
    if (asGet) {
      method = "GET";
      content = undefined;
      for (const name of ["content-type", "content-encoding", "content-language", "content-location"]) {
        headers.delete(name);
      }
    }
  }
}

type Head = Parameters<typeof sendHttp>[1];

async function exchange(
  backend: Backend,
  head: Head,
  body: Uint8Array | undefined,
  signal: AbortSignal | undefined,
): Promise<Response> {
  // The signal may have been aborted after the body was read, or during a redirect.
  signal?.throwIfAborted();
  let stream: ResponseStream;
  try {
    stream = sendHttp(backend, head, body);
  } catch (cause) {
    throw failed(cause);
  }
  const release = cancelOn(signal, stream);
  try {
    const first = await stream.next();
    if (first.done === true) throw new Error("the backend ended the request without a response");
    const [headPart, ...parts] = partsOf(first.value);
    const { status, headers } = JSON.parse(Buffer.from(headPart ?? []).toString()) as ResponseHead;
    const { final } = first.value;
    if (final) release();
    const empty = withoutBody.has(status) || head.method === "HEAD";
    if (empty && !final) await stream.return();
    const content = empty ? null : final ? concat(parts) : bodyOf(backend, stream, parts, signal, release);
    return new Response(content, { status, headers });
  } catch (cause) {
    release();
    if (signal?.aborted) throw signal.reason;
    throw failed(cause);
  }
}

/** The rest of a response as a byte stream. It requests from the backend only what is read. */
function bodyOf(
  backend: Backend,
  stream: ResponseStream,
  first: Uint8Array[],
  signal: AbortSignal | undefined,
  release: () => void,
): ReadableStream<Uint8Array> {
  let ready = first;
  let unreported = 0;
  let final = false;
  return new ReadableStream(
    {
      type: "bytes",
      async pull(controller) {
        try {
          while (ready.length === 0 && !final) {
            const next = await stream.next();
            if (next.done === true) final = true;
            else {
              ready = partsOf(next.value);
              final = next.value.final;
            }
          }
        } catch (cause) {
          release();
          throw signal?.aborted ? signal.reason : new TypeError("terminated", { cause });
        }
        if (ready.length > 0) {
          const chunk = concat(ready);
          ready = [];
          unreported += chunk.byteLength;
          controller.enqueue(chunk);
        }
        if (final) {
          release();
          controller.close();
          // A read into the caller's own buffer waits until the request is responded to.
          controller.byobRequest?.respond(0);
        } else if (unreported >= window / 2) {
          sendRead(backend, stream.id, unreported);
          unreported = 0;
        }
      },
      async cancel() {
        release();
        await stream.return();
      },
    },
    { highWaterMark: 0 },
  );
}

/** Cancels the request when the signal is aborted, until the returned function is called. */
function cancelOn(signal: AbortSignal | undefined, stream: ResponseStream): () => void {
  // Weak: a long-lived signal must not keep an unread response alive.
  const weak = new WeakRef(stream);
  return onAbort(signal, () => weak.deref()?.cancel());
}

/** Makes the error of a `fetch` without a response: a TypeError with the reason in `cause`. */
function failed(cause: unknown): TypeError {
  return new TypeError("fetch failed", { cause });
}

/** Joins the parts in one array with its own buffer, because a byte stream detaches the buffers that it gets. */
function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.byteLength;
  }
  return joined;
}
