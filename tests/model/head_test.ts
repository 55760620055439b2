import type { Device } from "../../kernels/device.ts";
import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../../kernels/cross_entropy/reference.ts";
import * as matrices from "../../kernels/matmul/reference.ts";
import { headLossBackward } from "../../model/head.ts";
import { assertComputes, device, randomValues, tensors, withRandom } from "../kernels/harness.ts";

const M = 150, C = 128, V = 131, COLUMNS = 132;

// bindings that hold 64 rows of the matrix, or of the logits
const narrow: Device = { ...device, maxBindingBytes: 66 * C * 4 };

for (const [on, rows] of [[device, M], [device, 64], [narrow, 64]] as const) {
  for (const accumulate of [false, true]) {
    const where = on === narrow ? " over several bindings" : "";
    const how = `${accumulate ? "adds" : "sets"} gradients, ${rows} of ${M} rows at a time${where}`;
    Deno.test(
      `headLossBackward() ${how}`,
      withRandom(async (random) => {
        const x = randomValues(random, M * C), weight = randomValues(random, V * C, { scale: 0.3 });
        const targets = Uint32Array.from({ length: M }, () => Math.floor(random() * V));
        targets[70] = 0xffffffff; // in the second chunk
        const before = randomValues(random, V * C);
        const t = tensors({
          x: [[M, C], "f32", x],
          weight: [[V, C], "f32", weight],
          targets: [[M], "u32", targets],
          stepInputs: [[3], "f32", [0, 1 / (M - 1), 0]],
          lossScale: [[1], "f32", 8],
          logits: [[rows, COLUMNS], "f32"],
          losses: [[M], "f32"],
          dx: [[M, C], "f32"],
          dweight: accumulate ? [[V, C], "f32", before] : [[V, C], "f32"],
        });
        const sizes = { M, N: V, K: C, transposeB: true }, factor = 8 / (M - 1);
        const logits = matrices.matmul({ a: x, b: weight }, sizes).y;
        const { losses } = crossEntropyForward({ logits, targets }, { M, V });
        const { dlogits } = crossEntropyBackward({ logits, targets, factor }, { M, V });
        const dx = matrices.matmul({ a: dlogits, b: weight }, { M, N: C, K: V }).y;
        const dweight =
          matrices.matmul({ a: dlogits, b: x }, { M: V, N: C, K: M, transposeA: true }).y;
        await assertComputes((program) => headLossBackward(program, t, t, { accumulate }), [
          // sums of up to 150 products of order a hundredth; logits of order ten
          [t.losses, losses, 2e-5],
          [t.dx, dx, 2e-6],
          accumulate
            ? [t.dweight, dweight.map((v, i) => v + before[i]!), 2e-5]
            : [t.dweight, dweight, 2e-6],
        ], { on });
      }),
    );
  }
}
