// The stock tritonserver over HTTP: `generate_stream`, answered as server-sent events.
import { Agent, get, request } from "node:http";
import { freePort } from "./children.mjs";
import { MODEL, samplingParameters, startTriton } from "./tritonserver.mjs";

export async function start(config) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/v2/models/${MODEL}`;
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 1024 });
  const ready = () =>
    new Promise((resolve, reject) => {
      get(`${url}/ready`, { agent }, (response) => resolve(response.resume().statusCode === 200)).on("error", reject);
    });
  const server = await startTriton(config, "http", port, ready);

  function generate({ prompt, tokens, lora }, onDelta) {
    const body = JSON.stringify({
      text_input: prompt,
      stream: true,
      sampling_parameters: samplingParameters({ tokens, lora }),
    });
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    return new Promise((resolve, reject) => {
      const sent = request(`${url}/generate_stream`, { method: "POST", agent, headers }, (response) => {
        let whole = "";
        let pending = "";
        response.setEncoding("utf8");
        response.on("data", (chunk) => {
          pending += chunk;
          for (let end = pending.indexOf("\n\n"); end >= 0; end = pending.indexOf("\n\n")) {
            const event = JSON.parse(pending.slice("data: ".length, end));
            pending = pending.slice(end + 2);
            if (event.error !== undefined) return reject(new Error(event.error));
            onDelta();
            whole += event.text_output;
          }
        });
        response.on("error", reject);
        response.on("end", () => {
          if (response.statusCode === 200) resolve(whole);
          else reject(new Error(`status ${response.statusCode}: ${pending}`));
        });
      });
      sent.on("error", reject);
      sent.end(body);
    });
  }

  return {
    generate,
    async stop() {
      agent.destroy();
      await server.stop();
    },
  };
}
