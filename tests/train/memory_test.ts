import assert from "node:assert/strict";
import { checkMemory } from "../../train/memory.ts";
import { train } from "../../train/train.ts";
import { device } from "../kernels/harness.ts";

const cpu = { name: "the CPU", isCpu: true };

Deno.test("checkMemory() lets pass what fits, and says how much does not", () => {
  checkMemory(cpu, { neededBytes: 5e9, freeBytes: 5e9 });
  checkMemory({ ...cpu, isCpu: false }, { neededBytes: 5e9, freeBytes: 1 });
  assert.throws(() => checkMemory(cpu, { neededBytes: 5e9 + 1, freeBytes: 4.96e9 }), {
    name: "RangeError",
    message: "Cannot train on the CPU as 4.96 GB of memory are free: current need is 5.00 GB; " +
      "use a smaller --batch-size, --context-length or --preset",
  });
});

Deno.test({
  name: "train() refuses what the memory does not hold before it computes anything",
  ignore: !device.isCpu,
  async fn() {
    const out = await Deno.makeTempDir(), { systemMemoryInfo } = Deno;
    const events: string[] = [];
    try {
      Deno.systemMemoryInfo = () => ({ ...systemMemoryInfo(), available: 5e6 });
      await assert.rejects(
        async () => {
          for await (const { kind } of train({ preset: "nano", device, out })) events.push(kind);
        },
        /Cannot train on .* as 5\.00 MB of memory are free: current need is [\d.]+ MB; use a smaller/,
      );
      assert.ok(events.includes("start") && !events.includes("step"));
    } finally {
      Deno.systemMemoryInfo = systemMemoryInfo;
      await Deno.remove(out, { recursive: true });
    }
  },
});
