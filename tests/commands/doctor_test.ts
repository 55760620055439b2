import assert from "node:assert/strict";
import { join } from "node:path";
import { device } from "../kernels/harness.ts";
import { dirname, fromFileUrl } from "../paths.ts";

const root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));
const task: string =
  JSON.parse(Deno.readTextFileSync(join(root, "deno.json"))).tasks.doctor.command;

/** What doctor prints on a machine with an adapter that doctored.ts knows: its table and its advice. */
async function doctor(adapter: string) {
  const words = task.split(" ").slice(1, -1);
  const script = join(root, "tests", "commands", "doctored.ts");
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [...words, script, adapter],
    cwd: root,
    stderr: "null",
  }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  return {
    code,
    rows: new Map(
      lines.filter((line) => line !== "" && !line.startsWith("to fix: "))
        .map((line) => line.split(/ {2,}(.*)/) as [string, string]),
    ),
    fixes: lines.filter((line) => line.startsWith("to fix: ")).map((line) => line.slice(8)),
  };
}

Deno.test("doctor names the adapter and its limits, and has nothing to fix on a GPU with f16", async () => {
  const { code, rows, fixes } = await doctor("gpu+f16");
  const mebibytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
  const { limits } = device.gpu;
  assert.equal(code, 0);
  assert.equal(rows.get("Deno"), `${Deno.version.deno} on ${Deno.build.target}`);
  assert.equal(rows.get("adapter"), "Some adapter");
  assert.equal(rows.get("subgroups"), "not used");
  assert.equal(rows.get("largest buffer"), mebibytes(limits.maxBufferSize));
  assert.equal(rows.get("largest binding"), mebibytes(device.maxBindingBytes));
  assert.equal(
    rows.get("workgroup"),
    `${limits.maxComputeInvocationsPerWorkgroup} invocations, ` +
      `${limits.maxComputeWorkgroupStorageSize / 1024} KiB`,
  );
  if (!device.features.has("shader-f16")) return; // cannot be pretended
  assert.match(rows.get("features")!, /shader-f16/);
  assert.match(rows.get("auto")!, /^preset mini.*; precision f16$/);
  assert.deepEqual(fixes, []);
});

Deno.test("doctor says how to fix what a machine lacks", async () => {
  const f16 = /^f16 is missing/,
    cpu = /^training runs on the CPU/,
    none = /^install a graphics driver: \S/;
  const cases: [adapter: string, code: number, fixes: RegExp[]][] = [
    ["none", 1, [none]],
    ["gpu", 0, [f16]],
    ["cpu", 0, [cpu, f16]],
  ];
  for (const [adapter, expected, patterns] of cases) {
    const { code, rows, fixes } = await doctor(adapter);
    assert.equal(code, expected, adapter);
    assert.equal(fixes.length, patterns.length, adapter);
    for (const [i, pattern] of patterns.entries()) assert.match(fixes[i]!, pattern, adapter);
    const named = /^(none: Cannot open a device as .*|Some adapter( \(computes on the CPU\))?)$/;
    assert.match(rows.get("adapter")!, named);
    assert.equal(rows.get("adapter")!.includes("CPU"), adapter === "cpu");
    assert.equal(rows.has("auto"), adapter !== "none");
    if (adapter !== "none") {
      assert.match(rows.get("auto")!, /^preset (nano|mini).*; precision f32$/);
    }
  }
});
