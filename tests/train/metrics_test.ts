import assert from "node:assert/strict";
import { PRESETS } from "../../model/config.ts";
import { flopsPerToken, parseMetrics } from "../../train/metrics.ts";

Deno.test("parseMetrics() passes over what is no whole line, and says where", () => {
  const text = [
    '{"kind":"step","step":1,"loss":2.5}',
    '{"kind":"step","st{"kind":"start","step":1}',
    "",
    "null",
    '{"kind":"evaluation","step":2,"loss":null}',
    '{"kind":"step","step":"3"}',
    '{"kind":"step","step":4',
  ].join("\n");
  const { metrics, damaged } = parseMetrics(text);
  assert.deepEqual(metrics.map(({ kind, step }) => [kind, step]), [["step", 1], ["evaluation", 2]]);
  assert.deepEqual(damaged, [2, 4, 6, 7]);
});

Deno.test("flopsPerToken() counts GPT-2 as PaLM's appendix does", () => {
  // 124,439,808 parameters; 12 layers, 12 heads of 64, 1024 tokens
  const expected = 6 * 124_439_808 + 12 * 12 * 12 * 64 * 1024;
  assert.equal(flopsPerToken({ ...PRESETS.gpt2, vocabularySize: 50257 }), expected);
});
