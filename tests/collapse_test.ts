import assert from "node:assert/strict";
import { batchOf } from "../data/tokens/batch.ts";
import { unshifted, withoutMask } from "../docs/collapse.ts";
import type { LoadedModel } from "../generate/load.ts";
import { gradientsOf, logitsOf, lossOf } from "../inspect/inspect.ts";
import { openTestDevice } from "./gpu.ts";
import { download } from "../kernels/tensor.ts";
import { masterOf } from "../model/gpt.ts";
import { setElements } from "../model/weights.ts";
import { byteTokenizer, CONFIG, randomModel } from "./generate/models.ts";
import { device } from "./kernels/harness.ts";

/** More tokens than a subgroup of a CPU has invocations. */
const IDS = Array.from({ length: 20 }, (_, i) => 5 + i);
const V = CONFIG.vocabularySize, tokenizer = byteTokenizer();

/** Positions whose logits change if the last token does. */
async function changed(model: LoadedModel): Promise<number[]> {
  const { logits } = await logitsOf(model, IDS);
  const { logits: others } = await logitsOf(model, IDS.with(-1, 50));
  return [...IDS.keys()].filter((t) => logits[t * V] !== others[t * V]);
}

Deno.test({
  name: "withoutMask() lets every position see later tokens, forward and backward",
  ignore: !device.isCpu, // it changes the kernels for CPUs
  async fn() {
    assert.deepEqual(await changed({ gpt: randomModel(device, "f32"), tokenizer }), [19]);
    using open = withoutMask(await openTestDevice());
    const gpt = randomModel(open, "f32"), model = { gpt, tokenizer };
    assert.deepEqual(await changed(model), [...IDS.keys()]);
    const name = "h.0.attn.c_attn.weight";
    const { gradients } = await gradientsOf(model, IDS), gradient = gradients.get(name)!;
    const sizes = gradient.map(Math.abs), at = sizes.indexOf(Math.max(...sizes)), h = 0.02;
    const [values] = await download(open, masterOf(gpt, name)), value = values![at]!;
    const lossWith = async (changed: number) => {
      setElements(gpt, name, at, Float32Array.of(changed));
      return (await lossOf(model, IDS)).loss;
    };
    const slope = (await lossWith(value + h) - await lossWith(value - h)) / (2 * h);
    assert.ok(Math.abs(gradient[at]! / slope - 1) < 0.01, `${gradient[at]} is not ${slope}`);
  },
});

Deno.test("unshifted() makes each token that is read its own target", () => {
  const batch = unshifted(batchOf([IDS], { contextLength: 19, padding: 0 }));
  assert.deepEqual([...batch.targets], IDS.slice(0, 19));
  assert.equal(batch.counted, 19);
});

Deno.test("docs/collapse.md has a table between each pair of markers of docs/collapse.ts", () => {
  const page = Deno.readTextFileSync(new URL("../docs/collapse.md", import.meta.url));
  const sections = [...page.matchAll(/<!-- begin: (\w+), made by [^]*?<!-- end: \1 -->/g)];
  assert.deepEqual(sections.map(([, name]) => name), ["mistakes", "diagnoses", "cures"]);
  for (const [section] of sections) assert.match(section, /^\| -+.*\n(\| .*\n){3}/m);
});
