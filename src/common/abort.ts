interface Waiting {
  readonly listeners: Set<() => void>;
  readonly onAbort: () => void;
}

const waiting = new WeakMap<AbortSignal, Waiting>();

/**
 * Calls `listener` once when the signal is aborted; at once if it is aborted already.
 *
 * One event listener serves everything that waits for a signal: with one for each request Node would warn of a leak
 * (`MaxListenersExceededWarning`) from the eleventh request on, and raising the limit would change the caller's object.
 *
 * @returns a function that stops waiting
 */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return () => {};
  if (signal.aborted) {
    listener();
    return () => {};
  }
  const { listeners, onAbort } = waiting.get(signal) ?? listen(signal);
  // A function of its own for each call: the same listener may wait twice.
  const entry = () => listener();
  listeners.add(entry);
  return () => {
    if (!listeners.delete(entry) || listeners.size > 0) return;
    // Node keeps a composed signal alive as long as it has a listener.
    waiting.delete(signal);
    signal.removeEventListener("abort", onAbort);
  };
}

function listen(signal: AbortSignal): Waiting {
  const listeners = new Set<() => void>();
  const onAbort = () => {
    waiting.delete(signal);
    for (const listener of listeners) listener();
    listeners.clear();
  };
  const created = { listeners, onAbort };
  waiting.set(signal, created);
  signal.addEventListener("abort", onAbort, { once: true });
  return created;
}

/** What a promise resolves with, unless the signal is aborted first: then it rejects with `reason()`. */
export async function unlessAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
  reason: () => unknown = () => signal?.reason,
): Promise<T> {
  if (signal === undefined) return promise;
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = onAbort(signal, () => reject(reason()));
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    stop();
  }
}
