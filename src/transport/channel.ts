import { isMainThread } from "node:worker_threads";
import { type Addon, loadAddon } from "../native/binding";
import { type ChildFields, EventReader, type ResponseEvent } from "../native/events";
import { dataTypeName, type Tensor, type TensorData } from "./tensors";

/** One response of a request. `final` is true for the last one. */
export interface InferenceResponse {
  /** The model's name. */
  readonly model: string;
  /** The version of the model that answered. */
  readonly version: number;
  /** The id of the request. */
  readonly id: string;
  /** The response's own parameters. */
  readonly parameters: Readonly<Record<string, string | number | boolean>>;
  /** Its tensors by their names. */
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Whether it is the last one of its request. */
  readonly final: boolean;
}

/** Receives the responses of one call. Its functions must not throw. */
export interface CallHandler {
  readonly id: string;
  readonly model: string;
  /** `response` is undefined if Triton ends a stream without one. */
  onResponse(response: InferenceResponse | undefined, final: boolean): void;
  onFailure(code: string, message: string, final: boolean): void;
}

/** A child process of the server started or ended. `arguments` are what Triton started the stub with. */
export interface ChildEvent {
  readonly pid: number;
  readonly running: boolean;
  readonly arguments: readonly string[];
  /** As far as is known, Triton told it to exit; it did not crash. */
  readonly asked: boolean;
}

/** The parameters of a response that has none. */
export const noParameters: Readonly<Record<string, never>> = Object.freeze({});

/** Reports an error of one listener; the other listeners, and the rest of the batch, are not affected. */
function tell(listener: () => void): void {
  try {
    listener();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** This environment's side of the addon's event queue. It passes each event of a batch to its listeners. */
export class Channel {
  static #instance: Channel | undefined;

  readonly addon: Addon;
  readonly #calls = new Map<number, CallHandler>();
  readonly #logListeners = new Set<(line: string) => void>();
  #users = 0;
  readonly #children = new Map<number, ChildEvent>();
  readonly #childListeners = new Set<(event: ChildEvent) => void>();

  /** There is one for each environment, made when it is first needed. @throws {@link AddonLoadError} */
  static get(): Channel {
    Channel.#instance ??= new Channel(loadAddon());
    return Channel.#instance;
  }

  private constructor(addon: Addon) {
    this.addon = addon;
    const reader = new EventReader(addon.eventTable);
    const sink = {
      response: (event: ResponseEvent) => tell(() => this.#response(event)),
      log: (line: string) => {
        for (const listener of this.#logListeners) tell(() => listener(line));
      },
      child: (event: ChildFields) => this.#child(event),
    };
    addon.initialize((batch) => reader.read(batch, sink), isMainThread);
  }

  /** Adds a user of the server in this environment. Children are reported as long as there is a user. */
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
   * Forgets every call of a model whose child is dead, including cancelled ones. Triton would never end them, and a call
   * that has not ended keeps the event loop alive.
   *
   * @param only - forget only these calls: another child serves the later ones
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

  /** Calls `listener` for each child that runs already, and for each that starts or ends. */
  onChild(listener: (event: ChildEvent) => void): () => void {
    for (const event of this.#children.values()) listener(event);
    this.#childListeners.add(listener);
    return () => this.#childListeners.delete(listener);
  }

  #child({ pid, running, arguments: text, asked }: ChildFields): void {
    const event = { pid, running, arguments: text.split("\n").filter((line) => line !== ""), asked };
    if (running) this.#children.set(pid, event);
    else this.#children.delete(pid);
    for (const listener of this.#childListeners) tell(() => listener(event));
  }

  #response(event: ResponseEvent): void {
    const { call, last, code, message } = event;
    const handler = this.#calls.get(call);
    if (handler === undefined) return;
    if (last) this.#calls.delete(call);
    if (code !== undefined) handler.onFailure(code, message ?? "", last);
    else handler.onResponse(event.empty ? undefined : toResponse(event, handler.id), last);
  }
}

function toResponse(event: ResponseEvent, id: string): InferenceResponse {
  const outputs: Record<string, Tensor> = {};
  for (const { name, datatype, shape, data } of event.outputs) {
    outputs[name] = { name, datatype: dataTypeName(datatype), shape, data: data as TensorData };
  }
  const { model, version, parameters = noParameters, last: final } = event;
  return { model, version, id, parameters, outputs, final };
}
