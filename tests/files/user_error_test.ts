import assert from "node:assert/strict";
import { UserError } from "../../files/user_error.ts";

Deno.test("UserError names options as properties in its message and as flags in its sentence", () => {
  const cases: [sentence: string, message: string][] = [
    [
      "Cannot train as --min-learning-rate must be at most --learning-rate, which is 1: current value is 2",
      "Cannot train as minLearningRate must be at most learningRate, which is 1: current value is 2",
    ],
    ["Cannot train (with --beta1, --top-k; --out)", "Cannot train (with beta1, topK; out)"],
    ["Cannot read a--b, runs/--c, --d/e, --f.txt, --, --G or '--h'", ""],
    ["Cannot load as the network may not be used: add --allow-net", ""],
  ];
  for (const [sentence, message] of cases) {
    const error = new UserError(sentence, { hint: "Give --steps" });
    assert.equal(error.message, message || sentence);
    assert.equal(error.sentence, sentence);
    assert.equal(error.hint, "Give --steps");
    assert.ok(!Deno.inspect(error).includes("sentence"));
  }
});

Deno.test("UserError.precede() puts a text in front of message and sentence", () => {
  const error = new UserError("Cannot train as --steps must be there");
  error.precede("rank 1: ");
  assert.equal(error.sentence, "rank 1: Cannot train as --steps must be there");
  assert.equal(error.message, "rank 1: Cannot train as steps must be there");
});
