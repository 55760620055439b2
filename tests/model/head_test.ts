import type { Device } from "../../kernels/device.ts";
import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../../kernels/cross_entropy/reference.ts";
import * as matrices from "../../kernels/matmul/reference.ts";
import { Program } from "../../kernels/program.ts";
import { download } from "../../kernels/tensor.ts";
import { headLossBackward } from "../../model/head.ts";
import {
  assertClose,
  device,
  freshSeed,
  poisoned,
  randomValues,
  tensorOf,
  testRandom,
} from "../kernels/harness.ts";

const M = 150, C = 128, V = 131, COLUMNS = 132;

// bindings that hold 64 rows of the matrix, or of the logits
const narrow: Device = { ...device, maxBindingBytes: 66 * C * 4 };

for (const [on, rows] of [[device, M], [device, 64], [narrow, 64]] as const) {
  for (const accumulate of [false, true]) {
    const where = on === narrow ? " over several bindings" : "";
    const how = `${accumulate ? "adds" : "sets"} gradients, ${rows} of ${M} rows at a time${where}`;
    Deno.test(`headLossBackward() ${how}`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const x = randomValues(random, M * C), weight = randomValues(random, V * C, { scale: 0.3 });
      const targets = Uint32Array.from({ length: M }, () => Math.floor(random() * V));
      targets[70] = 0xffffffff; // of the second chunk
      const before = randomValues(random, V * C);
      const f32 = (...shape: number[]) => ({ shape, dtype: "f32" as const });
      const t = {
        x: tensorOf("x", f32(M, C), x),
        weight: tensorOf("weight", f32(V, C), weight),
        targets: tensorOf("targets", { shape: [M], dtype: "u32" }, targets),
        stepInputs: tensorOf("stepInputs", f32(4), [0, 1 / (M - 1), 0, 0]),
        lossScale: tensorOf("lossScale", f32(1), [8]),
        logits: poisoned("logits", f32(rows, COLUMNS)),
        losses: poisoned("losses", f32(M)),
        dx: poisoned("dx", f32(M, C)),
        dweight: accumulate
          ? tensorOf("dweight", f32(V, C), before)
          : poisoned("dweight", f32(V, C)),
      };
      const program = new Program(on);
      headLossBackward(program, t, t, { accumulate });
      program.run();
      const [losses, dx, dweight] = await download(device, t.losses, t.dx, t.dweight);

      const shape = { M, V }, sizes = { M, N: V, K: C, transposeB: true };
      const logits = matrices.matmul({ a: x, b: weight }, sizes).y;
      const factor = 8 / (M - 1);
      const { dlogits } = crossEntropyBackward({ logits, targets, factor }, shape);
      const expected = {
        losses: crossEntropyForward({ logits, targets }, shape).losses,
        dx: matrices.matmul({ a: dlogits, b: weight }, { M, N: C, K: V }).y,
        dweight: matrices.matmul({ a: dlogits, b: x }, { M: V, N: C, K: M, transposeA: true }).y,
      };
      // sums of up to 150 products of order a hundredth; logits of order ten
      assertClose(losses!, expected.losses, 2e-5, `losses, seed ${seed}`);
      assertClose(dx!, expected.dx, 2e-6, `dx, seed ${seed}`);
      assertClose(
        dweight!,
        expected.dweight.map((v, i) => v + (accumulate ? before[i]! : 0)),
        accumulate ? 2e-5 : 2e-6,
        `dweight, seed ${seed}`,
      );
      program.destroy();
    });
  }
}
