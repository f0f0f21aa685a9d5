import { existsSync } from "node:fs";
import { join } from "node:path";
import { sitePackages } from "../find/triton";
import { run } from "../process";
import type { Runtime } from "../runtime";

/** What the runtime's Python found when it imported what the backend imports. */
export interface ImportReport {
  torch: string;
  vllm: string;
  numpy: string;
  /** Which build of vLLM's CPU kernels it loaded for this processor, e.g. `"_C_AVX2"`; null where there is none. */
  kernels: string | null;
  /** Seconds from the interpreter's start to the end of the imports. */
  seconds: number;
}

export interface VerifyOptions {
  signal?: AbortSignal | undefined;
  onSpawn?: (pid: number) => void;
}

const IMPORTS = `
import time
started = time.monotonic()
import locale
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
import json, numpy, torch, vllm
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM
import re, vllm._custom_ops
with open("/proc/self/maps") as maps:
    kernels = re.search(r"/vllm/(_C\\w*)\\.abi3\\.so$", maps.read(), re.M)
print("\\n" + json.dumps({"torch": torch.__version__, "vllm": vllm.__version__, "numpy": numpy.__version__,
                         "kernels": kernels and kernels[1],
                         "seconds": round(time.monotonic() - started, 1)}))
`;

/** The stub prints a usage text and ends with this code when it gets no arguments; anything else means it can't start. */
const STUB_EXIT_CODE = 1;
const STUB_TIMEOUT_MS = 20_000;
const IMPORT_TIMEOUT_MS = 300_000;

/**
 * Starts the stub once without arguments, with libpython on its library path. Triton waits forever for a stub that can't start,
 * so this is checked first.
 *
 * @returns undefined when it starts, else the reason in words.
 */
export async function stubFlaw(runtime: Runtime, options: VerifyOptions = {}): Promise<string | undefined> {
  try {
    const result = await run(runtime.triton.stub, [], {
      environment: { ...bareEnvironment(runtime), LD_LIBRARY_PATH: runtime.libpythonDirectory },
      timeout: STUB_TIMEOUT_MS,
      signal: options.signal,
    });
    if (result.code === STUB_EXIT_CODE && !result.timedOut) return undefined;
    const text = (result.stderr || result.stdout).trim().split("\n")[0] ?? "";
    const ending = result.timedOut ? "did not end" : (result.signal ?? `exit code ${result.code}`);
    return `${ending}${text === "" ? "" : `: ${text}`}`;
  } catch (error) {
    if (options.signal?.aborted) throw error;
    return (error as Error).message;
  }
}

/**
 * Imports vLLM as the backend does: in the C locale that the embedded interpreter starts in (it ignores PYTHONUTF8 and
 * LC_ALL), with only LC_CTYPE set to UTF-8 first.
 *
 * @returns the versions, or the reason in words why the import failed.
 */
export async function importCheck(runtime: Runtime, options: VerifyOptions = {}): Promise<ImportReport | string> {
  try {
    const result = await run(runtime.python, ["-c", IMPORTS], {
      environment: {
        ...bareEnvironment(runtime),
        LC_ALL: "C",
        PYTHONCOERCECLOCALE: "0",
        PYTHONUTF8: "0",
        VLLM_LOGGING_LEVEL: "ERROR",
      },
      // the current folder is on sys.path: a user's own torch.py must not be imported
      cwd: "/",
      timeout: IMPORT_TIMEOUT_MS,
      signal: options.signal,
      ...(options.onSpawn === undefined ? {} : { onSpawn: options.onSpawn }),
    });
    if (result.code === 0) return JSON.parse(result.stdout.trim().split("\n").at(-1) ?? "") as ImportReport;
    if (result.timedOut) return `did not finish within ${IMPORT_TIMEOUT_MS / 1000} s`;
    if (result.signal === "SIGILL")
      return "SIGILL: this processor lacks instructions that the wheel was built for (AVX2)";
    return result.signal ?? result.stderr.trim().split("\n").at(-1) ?? `exit code ${result.code}`;
  } catch (error) {
    if (options.signal?.aborted) throw error;
    return (error as Error).message;
  }
}

/** Which of torchvision, torchaudio and torchcodec are installed: each breaks the import of transformers with the CPU torch. */
export function unwantedPackages(runtime: Runtime): string[] {
  const folder = sitePackages(join(runtime.directory, "venv"), runtime.pythonVersion);
  return ["torchvision", "torchaudio", "torchcodec"].filter((name) => existsSync(join(folder, name)));
}

/** The part of the caller's environment that a child of Triton gets, as far as Python is concerned. */
function bareEnvironment(runtime: Runtime): NodeJS.ProcessEnv {
  const environment: NodeJS.ProcessEnv = { ...process.env };
  for (const name of Object.keys(environment)) if (name.startsWith("PYTHON")) delete environment[name];
  const bin = join(runtime.directory, "venv", "bin");
  return { ...environment, PATH: `${bin}:${environment.PATH ?? "/usr/bin:/bin"}` };
}
