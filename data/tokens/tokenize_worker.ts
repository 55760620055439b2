import { DataError } from "../text/data_error.ts";
import { createUnitTokenizer, type Unit, type UnitTokenizer } from "./tokenize_unit.ts";
import type { UnitTokenizerOptions } from "./tokenize_unit.ts";

/**
 * A worker that tokenizes units: the first message says how, each further one is a unit, and each is
 * answered in turn.
 *
 * @module
 */

/** What a worker is told: first how to tokenize, then what. */
export type ToWorker =
  | { options: UnitTokenizerOptions }
  | { unit: Unit; textOnly: boolean };

const scope = self as unknown as {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: unknown, transfer?: Transferable[]): void;
};

let tokenizer: Promise<UnitTokenizer> | undefined;

scope.onmessage = async ({ data }) => {
  try {
    if ("options" in data) {
      tokenizer = createUnitTokenizer(data.options);
      await tokenizer;
      return;
    }
    const result = (await tokenizer!)(data.unit, data);
    const { text, tokens, starts } = result;
    scope.postMessage({ result }, [text.buffer, tokens.buffer, starts.buffer]);
  } catch (error) {
    scope.postMessage(error instanceof DataError ? { wrong: error.reason } : { error });
  }
};
