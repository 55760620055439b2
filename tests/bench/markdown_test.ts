import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  headline,
  machineSection,
  MARKERS,
  profileTables,
  replaceSection,
  scalingTable,
  si,
} from "../../bench/markdown.ts";
import { filesFromResults } from "../../bench/readme.ts";
import { dawn, pytorch, report } from "./fixtures.ts";

/** One report and PyTorch's, and both providers'. */
const native = { reports: [{ name: "gpu", report }], pytorch };
const both = { reports: [...native.reports, { name: "dawn_gpu", report: dawn }], pytorch };

/** Cells of all tables of a text. */
function cells(markdown: string): string[][] {
  return markdown.split("\n").filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
}

Deno.test("machineSection() compares the benchmarks that PyTorch's report has, too", () => {
  const rows = cells(machineSection(native));
  const from = rows.findIndex(([name]) => name === "benchmark");
  const to = rows.findIndex(([name]) => name === "run");
  assert.equal(rows[from]!.at(-1), "ratio"); // of the only provider
  assert.deepEqual(rows.slice(from + 2, to), [
    ["copy", "3.00 TB/s", "copy", "4.00 TB/s", "0.75"],
    ["product NN f16, 4096³", "25.0 TFLOP/s", "cuBLAS fp32", "50.0 TFLOP/s", "0.50"],
    ["product NN f16, 4096³", "25.0 TFLOP/s", "cuBLAS fp16", "500 TFLOP/s", "0.05"],
    ["train step f16 mini 32x128 V 50257", "10.0 ms", "eager fp16 autocast", "15.0 ms", "1.50"],
    ["train step f16 mini 32x128 V 50257", "10.0 ms", "compile bf16", "5.00 ms", "0.50"],
    [
      "train step f16 mini 32x128 V 50257, memory",
      "500 MB",
      "eager fp16 autocast",
      "1.50 GB",
      "3.00",
    ],
    ["train step f16 gpt2 8x1024 V 50257", "150 ms", "eager fp32", "165 ms", "1.10"],
    [
      "train step f16 smollm2-135m 8x512 V 49152",
      "80.0 ms",
      "transformers fp16 autocast",
      "60.0 ms",
      "0.75",
    ],
    ["generate f16 mini 64 streams", "15,000 tok/s", "transformers fp16", "12,000 tok/s", "1.25"],
  ]);
});

Deno.test("machineSection() lists runs, cold start, shares, and the commands that measured them", () => {
  const section = machineSection(native);
  const rows = cells(section).map((row) => row.join(" | "));
  for (
    const row of [
      "`deno task bench --scaling` | 2026-11-25 | Deno 2.9.6, Vulkan, timestamps",
      "`python3 bench/pytorch_baseline.py --no-compile` | 2026-11-26 | PyTorch 2.11.0, CUDA 13.0",
      "train step f16 mini 32x128 V 50257 | 10.0 ms | 409,600 | 2.0 % | 500 MB | 226",
      "generate f16 mini 64 streams | 100 ms | 15,000 |  |  | ",
      "train step f16 smollm2-135m 8x512 V 49152 muon | 39.0 ms | 30.0 ms | 1.30",
      "train step f16 gpt2 8x1024 V 50257 | 150 ms | 4.00 GB | 6.00 GB",
      "train step f16 gpt2 8x1024 V 50257 recompute block | 180 ms, × 1.20 | 1.00 GB, × 0.25 | 3.00 GB, × 0.50",
      "cold start to first step f16 mini 32x128 V 50257 | 4200 ms | 900 ms",
      "matmul NN f16 [4096,4096]x[4096,4096] | 25.0 TFLOP/s | 63 % | ",
      "attention forward f16 [8192,2304] T 512 HS 32 | 13.0 TFLOP/s | 33 % | 64x64 of 128",
      "residual and layernorm forward f16 [65536,768] |  | 80 % | ",
    ]
  ) assert.ok(rows.includes(row), `${row}\n\nis not in\n\n${section}`);
  assert.doesNotMatch(section, /^\| (copy f32|.* as 64x64)/m);
  assert.match(section, /3\.00 TB\/s, 40\.0 TFLOP\/s/);
  assert.match(section, /\(\.\.\/bench\/results\/gpu\.svg\)$/m);
});

Deno.test("machineSection() returns no row, table or figure for what was not measured", () => {
  const { scaling: _, ...rest } = report;
  const section = machineSection({ reports: [{ name: "cpu", report: { ...rest, results: [] } }] });
  assert.equal(cells(section).length, 3); // where it comes from
  assert.doesNotMatch(section, /svg|NaN|undefined/);
});

Deno.test("machineSection() compares with PyTorch only a step of the same vocabulary", () => {
  const compact = { name: "train step f16 mini 32x128 V 4096", ms: 3, tokensPerSecond: 1e6 };
  const reports = [{ name: "gpu", report: { ...report, results: [compact] } }];
  const section = machineSection({ reports, pytorch });
  assert.deepEqual(cells(section).filter(([name]) => name === compact.name), [
    [compact.name, "3.00 ms", "1,000,000", "", "", ""],
  ]);
});

Deno.test("machineSection() has columns of both providers, then the tables of each", () => {
  const section = machineSection(both), rows = cells(section).map((row) => row.join(" | "));
  for (
    const row of [
      "`deno task bench:ffi --gpu dawn` | 2026-11-25 | Deno 2.9.6, Dawn on Vulkan, timestamps",
      "benchmark | native | Dawn | PyTorch mode | PyTorch | native's ratio | Dawn's ratio",
      "copy | 3.00 TB/s |  | copy | 4.00 TB/s | 0.75 | ",
      "product NN f16, 4096³ | 25.0 TFLOP/s | 200 TFLOP/s | cuBLAS fp16 | 500 TFLOP/s | 0.05 | 0.40",
      "train step f16 mini 32x128 V 50257 | 10.0 ms | 4.00 ms | compile bf16 | 5.00 ms | 0.50 | 1.25",
      "matmul NN f16 [4096,4096]x[4096,4096] | 25.0 TFLOP/s | 63 % |  | 200 TFLOP/s | 67 % | 128x128 matrices/1",
    ]
  ) assert.ok(rows.includes(row), `${row}\n\nis not in\n\n${section}`);
  const headings = section.split("\n").filter((line) => line.startsWith("#"));
  assert.deepEqual(headings, [
    "### A GPU",
    ...["native", "Dawn", "kernels"].map((part) => `#### A GPU, ${part}`),
  ]);
});

Deno.test("headline() has a row per benchmark, and a column per provider and mode of PyTorch", () => {
  const rows = cells(headline(both)).map((row) => row.join(" | "));
  assert.deepEqual([rows[0], ...rows.slice(2)], [
    "benchmark | native | Dawn | PyTorch fp32 | PyTorch fp16 | compiled",
    "product NN f16, 4096³ | 25.0 TFLOP/s | 200 TFLOP/s | 50.0 TFLOP/s | 500 TFLOP/s | ",
    "train step f16 mini 32x128 V 50257 | 10.0 ms | 4.00 ms |  | 15.0 ms | 5.00 ms",
    "train step f16 gpt2 8x1024 V 50257 | 150 ms |  | 165 ms |  | ",
    "train step f16 smollm2-135m 8x512 V 49152 | 80.0 ms |  |  | 60.0 ms | ",
    "generate f16 mini 64 streams | 15,000 tok/s |  |  | 12,000 tok/s | ",
  ]);
  assert.equal(cells(headline(native))[0]![2], "PyTorch fp32");
  assert.equal(headline({ reports: both.reports }), "");
});

Deno.test("profileTables() has a table per model, a row per kernel and a column per profile", () => {
  const row = (label: string, ms: number, share: number) => ({ label, launches: 1, ms, share });
  const [mini, gpt2] = profileTables({
    "train step f16 mini": [
      row("kernels/matmul/tiles.wgsl", 6, 0.75),
      row("kernels/sum/forward.wgsl", 2, 0.25),
    ],
    "train step f16 gpt2": [row("kernels/muon/forward.wgsl", 3, 1)],
    "generate f16 mini": [row("kernels/sum/forward.wgsl", 0.5, 1)],
  }).map(cells);
  assert.deepEqual([mini![0], ...mini!.slice(2)], [
    ["kernel", "train step f16 mini", "generate f16 mini"],
    ["matmul/tiles.wgsl", "6.00 ms, 75 %", ""],
    ["sum/forward.wgsl", "2.00 ms, 25 %", "500 µs, 100 %"],
    ["sum", "8.00 ms", "500 µs"],
  ]);
  assert.deepEqual(gpt2!.map(([name]) => name).slice(2), ["muon/forward.wgsl", "sum"]);
});

Deno.test("scalingTable() shows the ratio of measured to modelled time", () => {
  const rows = cells(scalingTable(report.scaling!));
  assert.deepEqual(rows[2], [
    ...["width 512", "32x128", "360 GFLOP", "2.50 GB", "226"],
    ...["8.00 ms", "16.0 ms", "20.0 ms", "2.00"],
  ]);
});

Deno.test("sections have the layout of `deno fmt`", async () => {
  const text = [machineSection(both), scalingTable(report.scaling!)]
    .join("\n\n");
  const file = await Deno.makeTempFile({ suffix: ".md" });
  await Deno.writeTextFile(file, replaceSection(`${MARKERS.begin}\n${MARKERS.end}\n`, text, "it"));
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--check", "--line-width", "100", file],
  }).output();
  await Deno.remove(file);
  assert.equal(code, 0, Buffer.concat([stdout, stderr]).toString());
});

Deno.test("si() formats three digits with a suitable prefix", () => {
  assert.deepEqual([0, 7, 999.7, 39.44e12, 954396048].map((value) => si(value, "B")), [
    ...["0.00 B", "7.00 B", "1.00 kB", "39.4 TB", "954 MB"],
  ]);
});

Deno.test("replaceSection() replaces only the text between the markers", () => {
  const { begin, end } = MARKERS;
  const text = (section: string) => `# A\n\n${begin}\n\n${section}${end}\n\n## B\n`;
  assert.equal(replaceSection(text("old\n\n"), "new", "it"), text("new\n\n"));
  assert.equal(replaceSection(text("old\n\n"), "", "it"), text(""));
  for (const bad of ["", `${begin}\n`, `${end}\n`, `${end}\n${begin}\n`, text("") + text("")]) {
    assert.throws(
      () => replaceSection(bad, "new", "README.md"),
      /^UserError: Cannot write the results into README\.md as it must have the lines "<!-- begin/,
    );
  }
});

const root = new URL("../../", import.meta.url);

Deno.test("README.md, pages and figures agree with bench/results/", async () => {
  const files = await filesFromResults(root);
  const figures = [...Deno.readDirSync(new URL("bench/results/", root))]
    .flatMap(({ name }) => name.endsWith(".svg") ? [`bench/results/${name}`] : []);
  const pages = ["README.md", "bench/NOTES.md", "docs/performance.md", "docs/several-machines.md"];
  assert.deepEqual([...files.keys()].sort(), [...pages, ...figures].sort());
  for (const [path, text] of files) {
    const hint = `${path} differs; run: deno task bench:readme`;
    assert.ok(await Deno.readTextFile(new URL(path, root)) === text, hint);
  }
});

Deno.test("filesFromResults() pairs reports by name and throws if they are of two devices", async () => {
  const folder = await Deno.makeTempDir();
  const write = (path: string, content: unknown) =>
    Deno.writeTextFile(
      `${folder}/${path}`,
      typeof content === "string" ? content : JSON.stringify(content),
    );
  await Deno.mkdir(`${folder}/bench/results`, { recursive: true });
  await Deno.mkdir(`${folder}/docs`);
  for (const path of ["README.md", "docs/performance.md", "bench/NOTES.md"]) {
    await write(path, `${MARKERS.begin}\n${MARKERS.end}\n`);
  }
  const cpu = { ...report, device: { ...report.device, name: "A CPU", isCpu: true } };
  await write("bench/results/a_cpu.json", cpu);
  await write("bench/results/gpu.json", report);
  await write("bench/results/pytorch_gpu.json", pytorch);
  const at = new URL(`file://${folder}/`);
  const files = await filesFromResults(at);
  assert.deepEqual([...files.keys()].sort(), [
    ...["README.md", "bench/NOTES.md", "bench/results/a_cpu.svg", "bench/results/gpu.svg"],
    "docs/performance.md",
  ]);
  const readme = files.get("docs/performance.md")!;
  assert.ok(readme.indexOf("### A GPU") < readme.indexOf("### A CPU"), "GPUs come first");
  assert.equal([...readme.matchAll(/cuBLAS fp32/g)].length, 1);
  assert.match(files.get("README.md")!, /^\| train step /m);
  assert.doesNotMatch(files.get("README.md")!, /memory|A CPU/);
  await write("bench/results/dawn_gpu.json", {
    ...dawn,
    device: { ...dawn.device, name: "a-gpu" },
  });
  const more = await filesFromResults(at);
  assert.ok(more.has("bench/results/dawn_gpu.svg"));
  assert.match(more.get("bench/NOTES.md")!, /^### A GPU, Dawn$/m);
  assert.match(more.get("README.md")!, /^\| benchmark +\| +native \| +Dawn \|/m);
  const { scaling: _, ...short } = report, [first, ...others] = report.results;
  await write("bench/results/gpu.json", { ...short, date: "2026-11-28", results: others });
  const slower = [{ ...others[0]!, ms: 1e6 }];
  await write("bench/results/gpu.2.json", { ...report, date: "2026-11-27", results: slower });
  await write("bench/results/gpu.3.json", { ...report, results: [first] });
  const completed = await filesFromResults(at);
  assert.ok(completed.has("bench/results/gpu.svg"));
  assert.equal(completed.get("README.md"), more.get("README.md"));
  assert.match(
    completed.get("docs/performance.md")!,
    / 2026-11-28 +\|[^]* 2026-11-27, for what was not measured later[^]* 2026-11-25, for what/,
  );
  const [firstOfPyTorch, ...othersOfPyTorch] = pytorch.results;
  await write("bench/results/pytorch_gpu.json", { ...pytorch, results: othersOfPyTorch });
  const earlier = { ...pytorch, date: "2026-11-20", results: [firstOfPyTorch] };
  await write("bench/results/pytorch_gpu.2.json", earlier);
  const both = await filesFromResults(at);
  assert.equal(both.get("README.md"), more.get("README.md"));
  assert.match(both.get("docs/performance.md")!, / 2026-11-20, for what was not measured later/);
  await write("bench/results/pytorch_a_cpu.json", pytorch);
  await assert.rejects(
    filesFromResults(at),
    /^UserError: Cannot compare a_cpu\.json with pytorch_a_cpu\.json as both must be of one device/,
  );
  await Deno.remove(folder, { recursive: true });
});
