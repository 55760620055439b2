import type { Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import type { Device } from "../../kernels/device.ts";
import { size } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt, type Gpt } from "../../model/gpt.ts";
import type { Precision } from "../../model/precision.ts";
import { isAdapter } from "../../model/files/lora.ts";
import { parameterTable } from "../../model/parameters.ts";
import { setElements } from "../../model/weights.ts";
import { randomValues, testRandom } from "../kernels/harness.ts";

/** A model for texts of bytes. */
export const CONFIG: GptConfig = {
  vocabularySize: 257,
  contextLength: 38,
  width: 24,
  layers: 2,
  heads: 2,
};

/** That model, or one that differs, with random weights and adapters, large enough that it attends to what it has read. */
export function randomModel(
  device: Device,
  precision: Precision,
  change: Partial<GptConfig> = {},
): Gpt {
  const { lora, ...whole } = { ...CONFIG, ...change };
  const gpt = createGpt(device, { ...whole, ...(lora ? { lora } : {}) }, { precision });
  const random = testRandom(8);
  for (const { name, shape, decayed } of parameterTable(whole)) {
    const values = randomValues(random, size(shape), { scale: decayed ? 0.3 : 0.1 });
    if (!decayed) values.forEach((value, i) => values[i] = 1 + value);
    setElements(gpt, name, 0, values);
  }
  for (const { name, shape } of gpt.table.filter(({ name }) => isAdapter(name))) {
    setElements(gpt, name, 0, randomValues(random, size(shape), { scale: 0.3 }));
  }
  return gpt;
}

/** A tokenizer whose tokens are bytes; the last ends a text. */
export function byteTokenizer({ endOfText = 256 } = {}): Tokenizer {
  const encode = (text: string) => [...new TextEncoder().encode(text)];
  const decoder = () => {
    const utf8 = new TextDecoder();
    return {
      push: (...ids: readonly number[]) => utf8.decode(Uint8Array.from(ids), { stream: true }),
      end: () => utf8.decode(),
    };
  };
  return {
    vocabularySize: 257,
    endOfText,
    endOfTextToken: "",
    json: "",
    hash: "",
    encode,
    encodeDocument: encode,
    decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids)),
    decoder,
    bytes: (id) => id < 256 ? Uint8Array.of(id) : new Uint8Array(0),
    byteLength: () => 1,
  };
}
