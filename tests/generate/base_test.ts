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
      "hf:tiny/model: there is no directory tiny/model, and: Cannot reach the hub; name it with base",
  });
});

Deno.test("findBase() names a base other than the one that adapters without a hash name", async () => {
  const used = async (spec: string) => {
    const notices: string[] = [];
    const find = () => Promise.resolve({ spec, directory: "model" });
    await findBase({ ...query, given: spec }, find, { onNotice: (text) => notices.push(text) });
    return notices;
  };
  assert.deepEqual(await used("hf:other/model@123"), []);
  assert.deepEqual(await used("/models/gpt2"), [
    "using /models/gpt2 as the base of the adapters in adapters, which name hf:tiny/model",
  ]);
});

Deno.test("findBase() throws a programmer's mistake as it is", async () => {
  const mistake = new TypeError("not a function");
  await assert.rejects(
    findBase(query, () => Promise.reject(mistake), {}),
    (error) => error === mistake,
  );
});
