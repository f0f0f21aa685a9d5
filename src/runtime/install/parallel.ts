import { join } from "node:path";
import { makeDirectories } from "../find/paths";
import { run } from "../process";
import { type PipContext, pipDownload, pipInstall } from "./pip";

/** How many pips download at once, besides the one that installs torch. More of them would only wait for the package index. */
const DOWNLOADERS = 2;

/**
 * Modules that are compiled when they are first imported instead. A load imports few or none of them, and they are half of
 * all modules. (Patterns of Python's compileall.)
 */
const COMPILED_LATE =
  "/(sympy|mpmath|networkx|transformers/models|torch/(_inductor|ao|onnx|testing)|torchgen|vllm/(models|model_executor/models)" +
  "|setuptools|pip|pygments)/";

/**
 * Installs torch, then the other packages; these are downloaded while torch is downloaded and unpacked.
 *
 * @param torch - installs torch
 * @param pins - the other packages
 * @throws the error of `torch` or pip, after everything that was still running has been stopped
 */
export async function installInParallel(
  context: PipContext,
  torch: () => Promise<void>,
  pins: readonly string[],
): Promise<void> {
  const failed = new AbortController();
  const signals = context.signal === undefined ? [failed.signal] : [failed.signal, context.signal];
  let shown = false;
  const download = async (share: readonly string[], index: number) => {
    const scratch = join(context.scratch, `download-${index}`);
    await makeDirectories(scratch);
    await pipDownload(
      {
        ...context,
        scratch,
        sitePackages: undefined,
        onSpawn: undefined,
        signal: AbortSignal.any(signals),
        // torch takes longest, so its progress is shown
        onProgress: (progress) => {
          if (shown) context.onProgress(progress);
        },
      },
      share,
      wheels,
    );
  };
  const wheels = join(context.scratch, "wheels");
  await makeDirectories(wheels);
  const shares = Array.from({ length: DOWNLOADERS }, (_, at) =>
    pins.filter((_pin, index) => index % DOWNLOADERS === at),
  );
  const steps = [
    torch().then(() => {
      shown = true;
    }),
    ...shares.map(download),
  ];
  const first = await Promise.all(steps).then(
    () => undefined,
    (error) => ({ error }),
  );
  if (first !== undefined) {
    failed.abort();
    await Promise.allSettled(steps);
    throw first.error;
  }
  // Meanwhile torch's two thousand modules are compiled on another processor.
  const [installed] = await Promise.allSettled([
    pipInstall({ ...context, wheels }, pins),
    compileBytecode(context, join(context.sitePackages ?? "", "torch")),
  ]);
  if (installed.status === "rejected") throw installed.reason;
}

/**
 * Compiles the modules below a folder on all processors, so that the first load does not have to. Modules that Python can't
 * compile (templates, other versions' syntax) are skipped, as pip does.
 */
export async function compileBytecode(context: PipContext, folder: string): Promise<void> {
  await run(context.python, ["-I", "-m", "compileall", "-q", "-j", "0", "-x", COMPILED_LATE, folder], {
    signal: context.signal,
    onLine: context.log,
  });
}
