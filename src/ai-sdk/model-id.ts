import type { AdapterChoice, VllmModel } from "../model";

/** What a model id stands for. */
export interface Chosen {
  readonly id: string;
  /** Undefined for the base model. */
  readonly lora: AdapterChoice | undefined;
}

export function chosen(model: VllmModel, id: AdapterChoice = model.name): Chosen {
  const name = typeof id === "string" ? id : id.name;
  return { id: name, lora: id === model.name ? undefined : id };
}
