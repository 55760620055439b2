import assert from "node:assert/strict";
import { parseReport, type Report } from "../../bench/report.ts";
import { scalingName, scalingSteps } from "../../bench/scaling.ts";
import { clockOf } from "../../kernels/timing.ts";
import { device } from "../kernels/harness.ts";
import { report } from "./fixtures.ts";

const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

Deno.test("bench measures what the filter selects, compares, and fails if a benchmark is slower", async () => {
  const folder = await Deno.makeTempDir();
  // which batches there are depends on the adapter
  const filter = scalingName(scalingSteps(device, "f32").find(({ axis }) => axis === "batch")!);
  const old: Report = {
    ...report,
    results: [64, 1024].flatMap((size) => [ // of CPUs and of GPUs
      { name: `copy f32 ${size} MiB, 1 vector each`, ms: 1e-2 },
      { name: `copy f32 ${size} MiB, 4 vectors each`, ms: 1e9 },
    ]),
  };
  await Deno.writeTextFile(`${folder}/old.json`, JSON.stringify(old));
  const before = Date.now();
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-prompt", "--allow-read", "--allow-write", "--allow-run"],
      new URL("../../bench/main.ts", import.meta.url).href,
      ...["--scaling", "--filter", filter, "copy"],
      ...["--json", `${folder}/new.json`, "--compare", `${folder}/old.json`],
    ],
  }).output();
  const table = decode(stderr), lines = decode(stdout).trimEnd().split("\n");
  const file = await Deno.readTextFile(`${folder}/new.json`);
  await Deno.remove(folder, { recursive: true });

  assert.equal(code, 1, table);
  assert.match(table, /^slower by more than 0\.1: copy f32 \d+ MiB, 1 vector each$/m);
  assert.match(table, /^copy f32 \d+ MiB, 4 vectors each +1\.00e\+6 s .* 999\+ × faster$/m);
  for (const line of table.split("\n")) assert.ok(line.length <= 80, line);

  const written = parseReport(lines.at(-1)!, "stdout");
  assert.deepEqual(written, JSON.parse(file));
  assert.equal(written.command, `deno task bench --scaling --filter '${filter}' copy`);
  assert.deepEqual(written.device, {
    provider: device.provider,
    name: device.name,
    backend: device.backend,
    isCpu: device.isCpu,
  });
  assert.equal(written.deno, Deno.version.deno);
  assert.equal(written.clock, clockOf(device));
  // it may be midnight
  const days = [before, Date.now()].map((time) => new Date(time).toISOString().split("T")[0]);
  assert.ok(days.includes(written.date), written.date);
  assert.deepEqual(written.scaling!.points.map(({ name }) => name), [filter]);
  const { flopsPerSecond, bytesPerSecond } = written.roofline;
  const shares = written.results.map(({ work, ms, share }) => {
    const [amount, limit] = "flops" in work!
      ? [work.flops, flopsPerSecond]
      : [work!.bytes, bytesPerSecond];
    assert.ok(Math.abs(share! * limit / (amount / ms * 1e3) - 1) < 1e-9, `${share} of ${ms} ms`);
    return share!;
  });
  // the faster of the two copies is the limit of both, and the product its own
  assert.ok(Math.abs(Math.max(...shares.slice(0, 2)) - 1) < 1e-9, `${shares}`);
  assert.ok(Math.abs(shares[2]! - 1) < 1e-9, `${shares}`);
  const names = written.results.map(({ name }) => name.split(" ")[0]);
  assert.deepEqual(names, ["copy", "copy", "roofline"], "no more than the roofline");
});

Deno.test({
  name: "bench prints its table on a terminal, and the report only elsewhere",
  ignore: Deno.build.os !== "linux", // other systems' script(1) has other arguments
  async fn() {
    const main = new URL("../../bench/main.ts", import.meta.url).pathname;
    const bench =
      `${Deno.execPath()} run --no-prompt --allow-read --allow-run ${main} --filter copy`;
    const { success, stdout } = await new Deno.Command("script", {
      args: ["-qec", bench, "/dev/null"],
      stdin: "null",
    }).output();
    const text = decode(stdout);
    assert.ok(success, text);
    assert.match(text, /^copy f32 .* GB\/s/m);
    assert.doesNotMatch(text, /\{"/);
  },
});
