import type { Channel, ChildEvent } from "./channel";

/** A child process of Triton: a Python stub. */
export interface ServerChild {
  readonly pid: number;
  /** The model it serves, as far as it is known. */
  readonly model: string | undefined;
  /** Triton's name of the model instance, e.g. `vllm_model_0_0`; the model's own name while it completes its configuration. */
  readonly instance: string;
}

/**
 * Which child serves which model, and which of them died.
 *
 * The stub wrapper announces each child with the arguments Triton gave it; in 24.10 these are: model_path
 * shm_region_name shm_default_byte_size shm_growth_byte_size parent_pid python_lib_dir ipc_control_handle stub_name
 * runtime_modeldir (python_backend, src/stub_launcher.cc).
 */
export class Children {
  readonly #running = new Map<number, ServerChild>();
  readonly #listeners = new Set<(child: ServerChild, running: boolean) => void>();
  readonly #models = new Set<string>();
  readonly #stop: () => void;

  constructor(channel: Channel) {
    this.#stop = channel.onChild((event) => this.#onEvent(event));
  }

  /** Names that stubs can belong to; call before a model's stub starts. */
  addModel(name: string): void {
    this.#models.add(name);
  }

  of(model: string): ServerChild[] {
    return [...this.#running.values()].filter((child) => child.model === model);
  }

  get running(): ServerChild[] {
    return [...this.#running.values()];
  }

  onChange(listener: (child: ServerChild, running: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#stop();
    this.#listeners.clear();
  }

  #onEvent(event: ChildEvent): void {
    const known = this.#running.get(event.pid);
    const instance = known?.instance ?? event.arguments[7] ?? "";
    const child = known ?? { pid: event.pid, instance, model: this.#modelOf(instance) };
    if (event.running) this.#running.set(event.pid, child);
    else this.#running.delete(event.pid);
    for (const listener of this.#listeners) listener(child, event.running);
  }

  /** Instances are named `<model>_<group>_<index>` unless the configuration names its groups; the longest match wins. */
  #modelOf(instance: string): string | undefined {
    let best: string | undefined;
    for (const model of this.#models) {
      const fits = instance === model || instance.startsWith(`${model}_`);
      if (fits && (best === undefined || model.length > best.length)) best = model;
    }
    return best;
  }
}
