import { isMainThread } from "node:worker_threads";
import { type Addon, loadAddon } from "../native/binding";
import { dataTypeName, type Tensor, type TensorData } from "./tensors";

/** One response of a request. `final`: no more come. */
export interface InferenceResponse {
  readonly model: string;
  readonly version: number;
  readonly id: string;
  readonly parameters: Readonly<Record<string, string | number | boolean>>;
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly final: boolean;
}

/** Who gets the responses of one call. Nothing of it may throw. */
export interface CallHandler {
  readonly id: string;
  readonly model: string;
  /** `response` is undefined where Triton ends a stream without one. */
  onResponse(response: InferenceResponse | undefined, final: boolean): void;
  onFailure(code: string, message: string, final: boolean): void;
}

/** A child process of the server started or ended. `arguments` are what Triton started the stub with. */
export interface ChildEvent {
  readonly pid: number;
  readonly running: boolean;
  readonly arguments: readonly string[];
}

/** The parameters of a response that has none. */
export const noParameters: Readonly<Record<string, never>> = Object.freeze({});

/** An error of one listener is reported as such; the others, and the rest of the batch, go on. */
function tell(listener: () => void): void {
  try {
    listener();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** This environment's end of the addon's event queue: takes each batch apart and hands the pieces to who waits for them. */
export class Channel {
  static #instance: Channel | undefined;

  readonly addon: Addon;
  readonly #calls = new Map<number, CallHandler>();
  readonly #logListeners = new Set<(line: string) => void>();
  #users = 0;
  readonly #children = new Map<number, ChildEvent>();
  readonly #childListeners = new Set<(event: ChildEvent) => void>();

  /** One for each environment, made when first needed. @throws {@link AddonLoadError} */
  static get(): Channel {
    Channel.#instance ??= new Channel(loadAddon());
    return Channel.#instance;
  }

  private constructor(addon: Addon) {
    this.addon = addon;
    addon.initialize((events) => this.#deliver(events), isMainThread);
  }

  /** Another user of the server in this environment; its children are reported as long as there is one. */
  join(): void {
    this.#users++;
  }

  leave(): void {
    if (--this.#users === 0) this.#children.clear();
  }

  addCall(call: number, handler: CallHandler): void {
    this.#calls.set(call, handler);
  }

  /**
   * Lets go of every call of a model whose child is dead, those that were cancelled before included: Triton would never
   * end them, and a call that has not ended keeps the event loop alive.
   *
   * @param only - of these calls, where another child serves the model's later ones
   */
  abandonCalls(model: string, only?: ReadonlySet<number>): void {
    for (const [call, handler] of this.#calls) {
      if (handler.model !== model || only?.has(call) === false) continue;
      this.#calls.delete(call);
      this.addon.abandon(call);
    }
  }

  onLog(listener: (line: string) => void): () => void {
    this.#logListeners.add(listener);
    return () => this.#logListeners.delete(listener);
  }

  /** Children that run already are told at once. */
  onChild(listener: (event: ChildEvent) => void): () => void {
    for (const event of this.#children.values()) listener(event);
    this.#childListeners.add(listener);
    return () => this.#childListeners.delete(listener);
  }

  // The layout is documented in native/addon/deliver.h.
  #deliver(events: unknown[]): void {
    for (let at = 0; at < events.length; ) {
      switch (events[at]) {
        case 0:
          tell(() => this.#response(events, at));
          at += 10;
          break;
        case 1:
          for (const listener of this.#logListeners) tell(() => listener(events[at + 1] as string));
          at += 2;
          break;
        default: {
          const [pid, running, text] = events.slice(at + 1, at + 4) as [number, boolean, string];
          const event = { pid, running, arguments: text.split("\n").filter((line) => line !== "") };
          if (running) this.#children.set(pid, event);
          else this.#children.delete(pid);
          for (const listener of this.#childListeners) tell(() => listener(event));
          at += 4;
        }
      }
    }
  }

  #response(events: unknown[], at: number): void {
    const call = events[at + 1] as number;
    const final = events[at + 2] as boolean;
    const handler = this.#calls.get(call);
    if (handler === undefined) return;
    if (final) this.#calls.delete(call);
    const code = events[at + 4] as string | undefined;
    if (code !== undefined) {
      handler.onFailure(code, events[at + 5] as string, final);
      return;
    }
    if (events[at + 3] as boolean) {
      handler.onResponse(undefined, final);
      return;
    }
    const outputs: Record<string, Tensor> = {};
    const flat = events[at + 8] as unknown[];
    for (let i = 0; i < flat.length; i += 4) {
      const name = flat[i] as string;
      outputs[name] = {
        name,
        datatype: dataTypeName(flat[i + 1] as number),
        shape: flat[i + 2] as number[],
        data: flat[i + 3] as TensorData,
      };
    }
    handler.onResponse(
      {
        model: events[at + 6] as string,
        version: events[at + 7] as number,
        id: handler.id,
        parameters: (events[at + 9] as Record<string, string | number | boolean> | undefined) ?? noParameters,
        outputs,
        final,
      },
      final,
    );
  }
}
