import { quoted } from "../files/printable.ts";
import { LinkedAbort } from "./abort.ts";
import { ApiError } from "./api_error.ts";
import type { ServedModel } from "./served_model.ts";

/** The models with which requests are answered. */
export interface Models {
  /** The end of "the model must be …". */
  readonly must: string;
  /**
   * Runs an action with a model, beside other actions with the same model.
   *
   * @param signal ends the wait for the model when it aborts; the action is called with a signal that also aborts when
   * the models are closed.
   * @throws {ApiError} 404 if there is no such model, 429 if too many requests wait, 503 if memory is short;
   * {UserError} if the model cannot be loaded; {DeviceError} if the device fails.
   */
  use<T>(
    name: string,
    signal: AbortSignal,
    action: (model: ServedModel, signal: AbortSignal) => Promise<T>,
  ): Promise<T>;
}

/** Models that stay loaded. */
export class LoadedModels implements Models {
  readonly #models: ReadonlyMap<string, ServedModel>;
  readonly #closing = new AbortController();

  constructor(models: readonly ServedModel[]) {
    this.#models = new Map(models.map((model) => [model.name, model]));
  }

  get must(): string {
    return `one of ${[...this.#models.keys()].join(", ")}`;
  }

  /** All of them. */
  get all(): readonly ServedModel[] {
    return [...this.#models.values()];
  }

  /**
   * The model with a name.
   *
   * @throws {ApiError} naming those that there are.
   */
  find(name: string): ServedModel {
    const model = this.#models.get(name);
    if (model) return model;
    throw new ApiError(
      404,
      `Cannot find the model ${quoted(name)} as it must be ${this.must}`,
      { param: "model", code: "model_not_found" },
    );
  }

  async use<T>(
    name: string,
    signal: AbortSignal,
    action: (model: ServedModel, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const model = this.find(name);
    using stop = new LinkedAbort(signal, this.#closing.signal);
    return await action(model, stop.signal);
  }

  /** Ends all actions with a reason, and frees the engines; the models belong to the caller. */
  async close(reason: ApiError): Promise<void> {
    this.#closing.abort(reason);
    await Promise.all(this.all.map(({ engine }) => engine.close()));
  }
}
