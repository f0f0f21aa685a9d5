import type { SetupProgress } from "../runtime";
import type { Context } from "./context";
import { ProgressBar } from "./progress-bar";

/** Runs something long with a progress bar on stderr. */
export async function watched<T>(
  context: Context,
  work: (report: (progress: SetupProgress) => void, log: (line: string) => void) => Promise<T>,
): Promise<T> {
  const bar = new ProgressBar(context.stderr, context.environment);
  try {
    return await work(
      (progress) => {
        if (progress.phase === "done") return;
        bar.update({ phase: progress.phase, message: progress.message, fraction: fractionOf(progress) });
      },
      (line) => bar.log(line),
    );
  } finally {
    bar.end();
  }
}

/** How far the phase is: whole packages, and the part of the current one. */
export function fractionOf({ index, count, receivedBytes, totalBytes }: SetupProgress): number | undefined {
  const part = receivedBytes !== undefined && totalBytes ? receivedBytes / totalBytes : 0;
  if (index === undefined || count === undefined) return receivedBytes === undefined ? undefined : part;
  return (index - 1 + part) / count;
}
