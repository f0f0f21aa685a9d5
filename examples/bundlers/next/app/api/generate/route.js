import { VllmModel } from "tritonode";

// Never at build time.
export const dynamic = "force-dynamic";

/** One model for the whole process: `next dev` evaluates this file again at each change. */
function loadModel() {
  if (globalThis.model === undefined) {
    globalThis.model = VllmModel.load({ modelRepository: process.env.MODEL_REPOSITORY });
    // The next request tries again.
    globalThis.model.catch(() => {
      globalThis.model = undefined;
    });
  }
  return globalThis.model;
}

/** POST { prompt, lora, maxTokens }: the answer as it is generated. A client that goes away ends it. */
export async function POST(request) {
  const { prompt, lora, maxTokens = 100 } = await request.json();
  let chunks;
  try {
    const model = await loadModel();
    chunks = model.stream(prompt, { lora, max_tokens: maxTokens, signal: request.signal });
  } catch ({ code, message, hint }) {
    return Response.json({ error: { code, message, hint } }, { status: 500 });
  }
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(encoder.encode(value.text));
    },
    async cancel() {
      await chunks.return();
    },
  });
  return new Response(body, { headers: { "content-type": "text/plain; charset=utf-8" } });
}
