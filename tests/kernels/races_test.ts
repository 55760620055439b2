import assert from "node:assert/strict";
import { Program } from "../../kernels/program.ts";
import { download } from "../../kernels/tensor.ts";
import { device, tensors } from "./harness.ts";
import { POISON } from "./races.ts";

/** What a kernel of 64 invocations writes, each one element. */
async function written(body: string): Promise<number[]> {
  const shader = `
@group(0) @binding(0) var<storage, read_write> y: array<u32>;

var<workgroup> shares: array<u32, 64>;
var<workgroup> sum: atomic<u32>;
var<workgroup> last: u32;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) index: u32) {
${body}
}
`;
  using program = new Program(device);
  const { y } = tensors({ y: [[64], "u32"] });
  program.dispatch({ shader: { "test.wgsl": shader }, tensors: { y }, workgroups: [1, 1, 1] });
  program.run();
  const [values] = await download(device, y);
  return [...values!];
}

const RACES: readonly [what: string, body: string][] = [
  ["reads what a later one writes", "shares[index] = index; B y[index] = shares[63u - index];"],
  [
    "writes what another one has read",
    "shares[index] = index; workgroupBarrier(); let read = shares[63u - index]; B shares[index] = 7u; y[index] = read;",
  ],
  [
    "writes what another one writes",
    "if (index < 2u) { last = index; } workgroupBarrier(); B y[index] = last;",
  ],
  ["adds to what is being read", "atomicAdd(&sum, index); B y[index] = atomicLoad(&sum);"],
  ["reads what the first one writes", "if (index == 0u) { last = 5u; } B y[index] = last;"],
];

for (const [what, body] of RACES) {
  Deno.test({
    name: `kernels of tests show an invocation that ${what} without a barrier`,
    ignore: !device.isCpu || device.provider === "dawn",
    async fn() {
      const without = await written(`  ${body.replace("B ", "")}`);
      assert.deepEqual(without, new Array(64).fill(POISON));
      const writesTwice = body.includes("last = index");
      const sound = await written(`  ${body.replace("B ", "workgroupBarrier(); ")}`);
      assert.equal(sound.includes(POISON), writesTwice);
    },
  });
}
