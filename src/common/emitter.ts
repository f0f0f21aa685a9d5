import { InvalidArgumentError } from "../errors";
import { callback } from "./callbacks";
import { describe } from "./describe";
import { didYouMean } from "./unknown";

/**
 * Listeners by the name of their event. An error that a listener throws does not stop the others, nor who emits
 * ({@link CallbackError}).
 */
export class Emitter<Events extends { readonly [Name in keyof Events]: unknown }> {
  readonly #names: readonly (keyof Events & string)[];
  readonly #listeners = new Map<string, Map<unknown, (event: never) => void>>();

  constructor(names: readonly (keyof Events & string)[]) {
    this.#names = names;
  }

  /** Adds a listener; adding it again changes nothing. @throws {@link InvalidArgumentError} */
  on<Name extends keyof Events & string>(name: Name, listener: (event: Events[Name]) => void): void {
    this.#add(name, listener, listener);
  }

  /** Adds a listener that is called once at most. */
  once<Name extends keyof Events & string>(name: Name, listener: (event: Events[Name]) => void): void {
    this.#add(name, listener, (event: Events[Name]) => {
      this.off(name, listener);
      listener(event);
    });
  }

  off<Name extends keyof Events & string>(name: Name, listener: (event: Events[Name]) => void): void {
    this.#listeners.get(name)?.delete(listener);
  }

  has(name: keyof Events & string): boolean {
    return (this.#listeners.get(name)?.size ?? 0) > 0;
  }

  emit<Name extends keyof Events & string>(name: Name, event: Events[Name]): void {
    for (const [owner, call] of [...(this.#listeners.get(name) ?? [])]) {
      callback(`on("${name}")`, owner as object, () => call(event as never));
    }
  }

  #add(name: string, owner: unknown, call: (event: never) => void): void {
    // Node's `events.once` listens to `error` besides; it is never emitted here.
    if (name !== "error" && !(this.#names as readonly string[]).includes(name)) {
      throw new InvalidArgumentError(`there is no event ${describe(name)}${didYouMean(String(name), this.#names)}`, {
        hint: `the events are ${this.#names.join(", ")}`,
      });
    }
    if (typeof owner !== "function") {
      throw new InvalidArgumentError(`a listener must be a function, got ${describe(owner)}`);
    }
    const listeners = this.#listeners.get(name) ?? new Map();
    this.#listeners.set(name, listeners);
    listeners.set(owner, call);
  }
}
