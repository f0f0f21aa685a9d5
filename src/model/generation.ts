import type { InferenceResponse, ResponseStream } from "../server";
import { detailsOf, type RequestTrace, watchWith } from "./diagnostics";
import { fromRequestFailure } from "./failure";
import { type GenerateResult, ResponseReader, type StreamChunk, type Usage } from "./results";
import { CancellableStream } from "./stream";

/** A generated text, piece by piece. {@link CancellableStream.final} resolves with what {@link VllmModel.generate} resolves with. */
export class GenerationStream extends CancellableStream<StreamChunk, GenerateResult> {
  readonly #reader: ResponseReader;
  /** The id that the request carries through Triton and vLLM. */
  readonly requestId: string;

  /** @internal Made by `model.stream`. */
  constructor(responses: ResponseStream, begun?: RequestTrace) {
    const reader = new ResponseReader();
    // Created once, not for every token.
    const read = (result: IteratorResult<InferenceResponse>) => (result.done ? undefined : reader.chunks(result.value));
    const fail = (error: unknown) => Promise.reject(fromRequestFailure(error));
    super(
      {
        pull: () => responses.next().then(read, fail),
        cancel: () => void responses.return(),
        final: () => reader.result(responses.id),
      },
      begun && watchWith(begun, () => detailsOf(reader.result(responses.id))),
    );
    this.#reader = reader;
    this.requestId = responses.id;
  }

  /** Tokens so far. */
  get usage(): Usage {
    return this.#reader.usage;
  }
}
