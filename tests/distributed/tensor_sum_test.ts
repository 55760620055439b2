import assert from "node:assert/strict";
import { checkSameBits } from "../../distributed/same_bits.ts";
import { checkSameCode } from "../../distributed/same_code.ts";
import { TensorSum } from "../../distributed/tensor_sum.ts";
import { oneRank, type Transport } from "../../distributed/transport.ts";
import { fromJsonBytes, toJsonBytes } from "../../files/json.ts";
import { createTensor, download, upload, viewTensor } from "../../kernels/tensor.ts";
import { device } from "../kernels/harness.ts";

/** A transport to one other rank, whose numbers are ten times those of this one. */
const tenfold: Transport = {
  ...oneRank,
  size: 2,
  sum(values) {
    values.forEach((value, i) => values[i] = value + 10 * value);
    return Promise.resolve();
  },
};

Deno.test("TensorSum replaces tensors by their sums over all ranks, and nothing beside them", async () => {
  const whole = createTensor(device, "whole", { shape: [12], dtype: "f32" });
  const other = createTensor(device, "other", { shape: [1], dtype: "f32" });
  upload(device, whole, Array.from({ length: 12 }, (_, i) => i));
  upload(device, other, [7]);
  const part = viewTensor(whole, { offset: 4, shape: [2, 2] });
  using sum = new TensorSum(device, tenfold, [[part], [other]]);
  await sum.run();
  const [values, single] = await download(device, whole, other);
  assert.deepEqual([...values!], [0, 1, 2, 3, 44, 55, 66, 77, 8, 9, 10, 11]);
  assert.deepEqual([...single!], [77]);
  await sum.run();
  assert.deepEqual([...(await download(device, other))[0]!], [847]);
  for (const ms of Object.values(sum.takeMs())) assert.ok(ms > 0);
  assert.deepEqual(sum.takeMs(), { wait: 0, download: 0, sum: 0, upload: 0 });
  for (const { buffer } of [whole, other]) buffer.destroy();
});

Deno.test("TensorSum copies pieces while others are added up", async () => {
  const length = 5 * 2 ** 20 + 3, values = Float32Array.from({ length }, (_, i) => i % 1000);
  const tensor = createTensor(device, "large", { shape: [length], dtype: "f32" });
  upload(device, tensor, values);
  let calls = 0, release = () => {};
  const slow: Transport = { // which adds a piece up when it has the next one, of six
    ...tenfold,
    async sum(piece) {
      release();
      if (++calls < 6) await new Promise<void>((resolve) => release = resolve);
      await tenfold.sum(piece);
    },
  };
  using sum = new TensorSum(device, slow, [[tensor]]);
  await sum.run();
  const [actual] = await download(device, tensor);
  assert.equal(actual!.findIndex((value, i) => value !== 11 * values[i]!), -1);
  assert.equal(calls, 6);
  tensor.buffer.destroy();
});

Deno.test("checkSameCode() names the ranks whose code differs, with their hosts if there are several", async () => {
  const among = (codes: readonly string[], hosts: readonly string[]): Transport => ({
    ...oneRank,
    size: codes.length,
    gather: () =>
      Promise.resolve(codes.map((text, rank) => toJsonBytes({ text, host: hosts[rank] }))),
  });
  const check = (...given: Parameters<typeof among>) => checkSameCode(among(...given));
  const cannot = "Cannot train together as all ranks must run the same code: rank 0 runs";
  await assert.rejects(check(["1", "2"], ["one", "one"]), {
    message: `${cannot} 1, rank 1 2`,
  });
  await assert.rejects(check([..."12313"], ["one", "one", "two", "two", "two"]), {
    message: `${cannot} 1, rank 1 on one 2, ranks 2, 4 on two 3`,
  });
  await check(["1", "1"], ["one", "two"]);
  let own: unknown;
  await checkSameCode({
    ...oneRank,
    gather(bytes) {
      own = fromJsonBytes(bytes);
      return oneRank.gather(bytes);
    },
  });
  assert.match(
    (own as { text: string }).text,
    /^sources [0-9a-f]{8} with Deno [\d.]+$/,
  );
});

Deno.test("checkSameBits() names the ranks that differ from most, or from the lowest when no bits are those of most", async () => {
  const tensor = createTensor(device, "weights", { shape: [4], dtype: "f32" });
  upload(device, tensor, [1, 2, 3, 4]);
  const among = (ranks: string): Transport => ({ // s: the same hash; a, b: other ones
    ...oneRank,
    size: ranks.length,
    gather: (bytes) =>
      Promise.resolve(
        [...ranks].map((rank) =>
          rank === "s" ? bytes : bytes.map((byte) => byte ^ rank.charCodeAt(0))
        ),
      ),
  });
  for (
    const [ranks, odd] of [
      ["sa", "rank 1 of 2 differs"],
      ["ssas", "rank 2 of 4 differs"],
      ["saa", "rank 0 of 3 differs"],
      ["sabss", "ranks 1, 2 of 5 differ"],
    ] as const
  ) {
    await assert.rejects(checkSameBits(among(ranks), device, tensor), {
      name: "UserError",
      message: `Cannot continue as all ranks must hold the same weights: ${odd} from the others`,
    });
  }
  assert.match(await checkSameBits(among("sss"), device, tensor), /^[0-9a-f]{64}$/);
  tensor.buffer.destroy();
});
