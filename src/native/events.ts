import { AddonLoadError } from "../errors";

/** A response of a request. `last`: no more come for it. */
export interface ResponseEvent {
  readonly call: number;
  readonly last: boolean;
  /** Without content: Triton ends the stream of a decoupled model with one. */
  readonly empty: boolean;
  /** Set where the request failed. */
  readonly code: string | undefined;
  readonly message: string | undefined;
  readonly model: string;
  readonly version: number;
  readonly outputs: readonly OutputFields[];
  readonly parameters: Readonly<Record<string, string | number | boolean>> | undefined;
}

/** A tensor; `datatype` is the C API's number. */
export interface OutputFields {
  readonly name: string;
  readonly datatype: number;
  readonly shape: readonly number[];
  readonly data: unknown;
}

/** A child process started or ended; `arguments` has a line for each that Triton gave it. */
export interface ChildFields {
  readonly pid: number;
  readonly running: boolean;
  readonly arguments: string;
  /** Triton has ended it, as far as is known. */
  readonly asked: boolean;
}

/** Who gets the events, one call for each. */
export interface EventSink {
  response(event: ResponseEvent): void;
  log(text: string): void;
  child(event: ChildFields): void;
}

/** The addon's own table (native/node/event_table.h): for each kind, in the order of their numbers, its name and fields. */
export interface EventTable {
  readonly events: readonly (readonly [kind: string, ...fields: string[]])[];
  readonly output: readonly string[];
}

type Positions<Fields> = { readonly [Name in keyof Fields]: number };

/**
 * Reads the batches that the addon makes: flat arrays, laid out as its table says.
 *
 * @throws {@link AddonLoadError} where the table lacks a field that is read here: the addon is of another version.
 */
export class EventReader {
  readonly #kinds: readonly string[];
  readonly #sizes: readonly number[];
  readonly #response: Positions<ResponseEvent>;
  readonly #log: Positions<{ text: string }>;
  readonly #child: Positions<ChildFields>;
  readonly #output: Positions<OutputFields>;
  readonly #outputSize: number;

  constructor({ events, output }: EventTable) {
    this.#kinds = events.map(([kind]) => kind);
    this.#sizes = events.map((row) => row.length);
    const fieldsOf = (kind: string) => events.find(([name]) => name === kind) ?? [kind];
    this.#response = positions(fieldsOf("response"), [
      "call",
      "last",
      "empty",
      "code",
      "message",
      "model",
      "version",
      "outputs",
      "parameters",
    ]);
    this.#log = positions(fieldsOf("log"), ["text"]);
    this.#child = positions(fieldsOf("child"), ["pid", "running", "arguments", "asked"]);
    this.#output = positions(output, ["name", "datatype", "shape", "data"]);
    this.#outputSize = output.length;
  }

  read(batch: readonly unknown[], sink: EventSink): void {
    for (let at = 0; at < batch.length; ) {
      const number = batch[at] as number;
      switch (this.#kinds[number]) {
        case "response":
          sink.response(this.#readResponse(batch, at));
          break;
        case "log":
          sink.log(batch[at + this.#log.text] as string);
          break;
        case "child": {
          const { pid, running, arguments: text, asked } = this.#child;
          sink.child({
            pid: batch[at + pid] as number,
            running: batch[at + running] as boolean,
            arguments: batch[at + text] as string,
            asked: batch[at + asked] as boolean,
          });
        }
      }
      at += this.#sizes[number] as number;
    }
  }

  #readResponse(batch: readonly unknown[], at: number): ResponseEvent {
    const field = this.#response;
    return {
      call: batch[at + field.call] as number,
      last: batch[at + field.last] as boolean,
      empty: batch[at + field.empty] as boolean,
      code: batch[at + field.code] as string | undefined,
      message: batch[at + field.message] as string | undefined,
      model: batch[at + field.model] as string,
      version: batch[at + field.version] as number,
      outputs: this.#readOutputs(batch[at + field.outputs] as readonly unknown[]),
      parameters: batch[at + field.parameters] as ResponseEvent["parameters"],
    };
  }

  #readOutputs(flat: readonly unknown[]): OutputFields[] {
    const field = this.#output;
    const outputs: OutputFields[] = [];
    for (let at = 0; at < flat.length; at += this.#outputSize) {
      outputs.push({
        name: flat[at + field.name] as string,
        datatype: flat[at + field.datatype] as number,
        shape: flat[at + field.shape] as number[],
        data: flat[at + field.data],
      });
    }
    return outputs;
  }
}

function positions<Name extends string>(row: readonly string[], names: readonly Name[]): Record<Name, number> {
  const found = {} as Record<Name, number>;
  for (const name of names) {
    found[name] = row.indexOf(name);
    if (found[name] < 0) {
      throw new AddonLoadError(`the addon's events of the kind ${row[0]} have no field '${name}'`, {
        hint: "it was built from other sources than this package's JavaScript: install or build the package again",
      });
    }
  }
  return found;
}
