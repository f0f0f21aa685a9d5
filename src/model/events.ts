import { channel } from "node:diagnostics_channel";
import type { Logger } from "../server";
import type { RestartEvent } from "./restart";

/**
 * A change to the adapters of a model. It may come from this object, another thread, a request, or a watched file.
 */
export interface AdapterEvent {
  /** What happened to it. `fail`: it is loaded in the background (`load_loras_in_background`), and that failed. */
  readonly action: "load" | "replace" | "unload" | "pin" | "unpin" | "fail";
  /** The adapter's name. */
  readonly name: string;
  /** Increases by one with each `replace`. */
  readonly version: number;
  /** Its folder. */
  readonly path: string;
  /** See {@link AdapterChoice}. */
  readonly scale: number;
  /** Why it could not be loaded (`fail`). The next request on it tries again. */
  readonly error?: string;
}

/** A line of the log of Triton, vLLM or the child process. */
export interface LogEvent {
  /** The severity. */
  readonly level: keyof Logger;
  /** The line, without its line end. */
  readonly message: string;
}

/** The events of {@link VllmModel.on}. */
export interface ModelEvents {
  /** A step of a restart (option `restart`). */
  readonly restart: RestartEvent;
  /** An adapter was loaded, replaced, unloaded, pinned or unpinned, or could not be loaded in the background. */
  readonly adapter: AdapterEvent;
  /** A line of the log of Triton, vLLM or the child. */
  readonly log: LogEvent;
}

export const modelEvents = ["restart", "adapter", "log"] as const satisfies readonly (keyof ModelEvents)[];

const channels = {
  restart: channel("tritonode:restart"),
  adapter: channel("tritonode:adapter"),
};

/** Publishes an event on its diagnostics channel, with the model's name. */
export function publish<Name extends keyof typeof channels>(name: Name, model: string, event: ModelEvents[Name]): void {
  if (channels[name].hasSubscribers) channels[name].publish({ model, ...event });
}
