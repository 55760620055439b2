import assert from "node:assert/strict";
import { join } from "node:path";
import { loadModel } from "../../generate/load.ts";
import { createApi } from "../../serve/api.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";
import { dirname, fromFileUrl } from "../paths.ts";
import { tinyRun } from "./tiny_run.ts";

const model = once(async () => await loadModel(device, { run: await tinyRun() }));

/** What another process says that puts a server under load. */
async function underLoad(load: string, count: number) {
  await using api = createApi({ models: { tiny: await model() }, slots: 8 });
  const options = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
  await using server = Deno.serve(options, api.handle);
  const script = join(dirname(fromFileUrl(import.meta.url)), "load.ts");
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-lock", "--no-prompt", "--allow-net=127.0.0.1", script],
      ...[`http://127.0.0.1:${server.addr.port}`, "tiny", load, `${count}`],
    ],
  }).output();
  const text = new TextDecoder().decode(stdout);
  assert.notEqual(text, "", new TextDecoder().decode(stderr));
  return JSON.parse(text);
}

Deno.test("streams of another process at the same time are each what they are alone", async () => {
  assert.deepEqual(await underLoad("streams", 16), { count: 16, lost: 0, different: 0 });
});

Deno.test("clients of another process that leave at any moment free their slots", async () => {
  const { count, finished } = await underLoad("leaving", 12);
  assert.deepEqual([count, finished], [12, 0]); // none was drawn to its end
});

Deno.test("malformed requests get typed answers, and leave other streams and the server as they were", async () => {
  const { statuses, examples, faults, ...after } = await underLoad("malformed", 100);
  assert.deepEqual([examples, faults], [[], 0]);
  assert.deepEqual(after, { count: 100, disturbed: 0, health: 200, isFree: true });
  assert.ok(statuses["400"] > 20, JSON.stringify(statuses));
});
