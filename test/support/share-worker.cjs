// A worker of test/chaos/sharing.test.ts: loads what it is told, generates, and disposes or is terminated meanwhile.
const { parentPort, workerData } = require("node:worker_threads");
const { VllmModel } = require("../../dist/index.js");

(async () => {
  const model = await VllmModel.load(workerData.load);
  const { text } = await model.generate("Hello, my name is", { temperature: 0, max_tokens: 8, ignore_eos: true });
  parentPort.postMessage({ text, pid: (await model.info()).pid });
  if (workerData.stay) {
    for (let i = 0; i < 16; i++) {
      model.generate(`Prompt ${i}`, { max_tokens: null, ignore_eos: true }).catch(() => {});
    }
    await new Promise(() => setInterval(() => {}, 1000));
  }
  await model.dispose();
  parentPort.postMessage({ disposed: true });
})().catch((error) => parentPort.postMessage({ error: `${error.code} ${error.message}` }));
