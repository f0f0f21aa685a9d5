import { basename, dirname } from "node:path";
import type { Channel, ChildEvent } from "../transport/channel";

/** A child process of Triton: a Python stub. */
export interface ServerChild {
  /** Its process id. */
  readonly pid: number;
  /** The model it serves. */
  readonly model: string;
  /**
   * Triton's name of the model instance, e.g. `vllm_model_0_0`; the model's own name while the child completes its
   * configuration.
   */
  readonly instance: string;
  /** When its start was announced, on the clock of `performance.now()`. */
  readonly since: number;
}

/** `asked`: as far as is known, Triton told the child to exit. */
export type ChildListener = (child: ServerChild, running: boolean, asked: boolean) => void;

/**
 * Keeps track of which child serves which model, and which of them died.
 *
 * The stub wrapper announces each child with the arguments that Triton gave it. In 24.10 these are: model_path
 * shm_region_name shm_default_byte_size shm_growth_byte_size parent_pid python_lib_dir ipc_control_handle stub_name
 * runtime_modeldir (python_backend, src/stub_launcher.cc).
 */
export class Children {
  readonly #running = new Map<number, ServerChild>();
  readonly #listeners = new Set<ChildListener>();
  readonly #stop: () => void;

  constructor(channel: Channel) {
    this.#stop = channel.onChild((event) => this.#onEvent(event));
  }

  of(model: string): ServerChild[] {
    return [...this.#running.values()].filter((child) => child.model === model);
  }

  get running(): ServerChild[] {
    return [...this.#running.values()];
  }

  onChange(listener: ChildListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#stop();
    this.#listeners.clear();
  }

  #onEvent(event: ChildEvent): void {
    const known = this.#running.get(event.pid);
    const child = known ?? toChild(event);
    if (event.running) this.#running.set(event.pid, child);
    else this.#running.delete(event.pid);
    for (const listener of [...this.#listeners]) listener(child, event.running, event.asked);
  }
}

/** The model is named after its folder: model_path is `<repository>/<model>/<version>/model.py`. */
function toChild(event: ChildEvent): ServerChild {
  const [modelPath = "", , , , , , , instance = ""] = event.arguments;
  return { pid: event.pid, model: basename(dirname(dirname(modelPath))), instance, since: performance.now() };
}
