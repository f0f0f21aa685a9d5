// The stock tritonserver over gRPC: one channel, and a stream of `ModelStreamInfer` for each request, which ends with it.
import { fileURLToPath } from "node:url";
import { credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { freePort } from "./children.mjs";
import { MODEL, samplingParameters, startTriton } from "./tritonserver.mjs";

const { inference } = loadPackageDefinition(
  loadSync(fileURLToPath(new URL("inference.proto", import.meta.url)), { keepCase: true }),
);

const text = (name, value) => ({
  name,
  datatype: "BYTES",
  shape: [1],
  contents: { bytes_contents: [Buffer.from(value)] },
});

/** The elements of a BYTES tensor, joined: each is a length of 4 bytes, little endian, and its bytes. */
function decode(raw) {
  let whole = "";
  for (let at = 0; at < raw.length; ) {
    const end = at + 4 + raw.readUInt32LE(at);
    whole += raw.toString("utf8", at + 4, end);
    at = end;
  }
  return whole;
}

export async function start(config) {
  const port = await freePort();
  const client = new inference.GRPCInferenceService(`127.0.0.1:${port}`, credentials.createInsecure(), {
    // What a refused connection is tried again after, while the server starts: the default grows to minutes.
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 100,
  });
  const ready = () =>
    new Promise((resolve, reject) => {
      client.ModelReady({ name: MODEL }, (error, answer) => (error ? reject(error) : resolve(answer.ready)));
    });
  const server = await startTriton(config, "grpc", port, ready);

  function generate({ prompt, tokens, lora }, onDelta) {
    const call = client.ModelStreamInfer();
    return new Promise((resolve, reject) => {
      let whole = "";
      call.on("data", ({ error_message, infer_response }) => {
        if (error_message) return reject(new Error(error_message));
        const raw = infer_response.raw_output_contents[0];
        if (raw === undefined) return; // the empty response that only says that it was the last
        onDelta();
        whole += decode(raw);
      });
      call.on("error", reject);
      call.on("end", () => resolve(whole));
      call.write({
        model_name: MODEL,
        inputs: [
          text("text_input", prompt),
          { name: "stream", datatype: "BOOL", shape: [1], contents: { bool_contents: [true] } },
          text("sampling_parameters", samplingParameters({ tokens, lora })),
        ],
        outputs: [{ name: "text_output" }],
      });
      call.end();
    });
  }

  return {
    generate,
    async stop() {
      client.close();
      await server.stop();
    },
  };
}
