import assert from "node:assert/strict";
import { findBase } from "../../generate/base.ts";
import { UserError } from "../../files/user_error.ts";

const query = {
  adapters: "adapters",
  named: "hf:tiny/model",
  sha256: undefined,
  given: undefined,
  likely: [],
};

Deno.test("findBase() gives a user's mistake as the reason", async () => {
  const find = () => Promise.reject(new UserError("Cannot reach the hub"));
  await assert.rejects(findBase(query, find, {}), {
    name: "CheckpointError",
    message: "Cannot load the adapters in adapters as their base must be found, which is " +
      "hf:tiny/model: Cannot reach the hub; name it with base",
  });
});

Deno.test("findBase() throws a programmer's mistake as it is", async () => {
  const mistake = new TypeError("not a function");
  await assert.rejects(
    findBase(query, () => Promise.reject(mistake), {}),
    (error) => error === mistake,
  );
});
