import assert from "node:assert/strict";
import { createTimeLimit } from "../../files/time_limit.ts";

Deno.test("createTimeLimit() returns what a call returns, throws what it throws, and ends it when it is late", () => {
  const limited = createTimeLimit();
  assert.equal(limited(() => 3, 1000), 3);
  assert.throws(() => limited(() => JSON.parse("{"), 1000), SyntaxError);
  assert.throws(() => limited(() => /(a+)+$/.test("a".repeat(40) + "!"), 20), {
    name: "TimeLimitError",
    message: "it takes more than 20 ms",
  });
});
