import assert from "node:assert/strict";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { Pipelines } from "../../kernels/pipelines.ts";
import { bindingsOf, compilable, specialize, unroll } from "../../kernels/shader.ts";
import { createTensor, download, type Tensor } from "../../kernels/tensor.ts";
import { openTestDevice } from "../gpu.ts";
import { device, poisoned, tensorOf } from "./harness.ts";

Deno.test("specialize() replaces the initializers of constants and aliases", () => {
  const source = "enable f16;\nalias real = f16; // type\nconst N: u32 = 1;\nconst NAME: u32 = 2;";
  assert.equal(
    specialize({ "a.wgsl": source }, { real: "f16", N: 7 }),
    "enable f16;\nalias real = f16; // type // a.wgsl:2\nconst N: u32 = 7; // a.wgsl:3\n" +
      "const NAME: u32 = 2; // a.wgsl:4",
  );
});

Deno.test("specialize() enables f16 before all files if the code of any file uses it", () => {
  const files = {
    "a.wgsl": "// f16\nenable f16;\nalias real = f16;",
    "b.wgsl": "enable f16;\nalias quad = vec4<real>;",
  };
  assert.equal(
    specialize(files, { real: "f32" }),
    "// f16\nalias real = f32; // a.wgsl:3\nalias quad = vec4<real>; // b.wgsl:2",
  );
  assert.match(specialize(files, {}), /^enable f16;\n\/\/ f16\nalias real = f16;/);
});

Deno.test("specialize() puts each directive before all files, unless it is excluded with its code", () => {
  const files = {
    "a.wgsl": "const ON: bool = true;\n// only if ON\nenable subgroups;",
    "b.wgsl": "enable subgroups;\ndiagnostic(off, subgroup_uniformity); // why\nfn f() {}",
  };
  const rest = "const ON: bool = true; // a.wgsl:1\nfn f() {} // b.wgsl:3";
  const directives = "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";
  assert.equal(specialize(files, {}), directives + rest);
  const { "a.wgsl": first } = files;
  assert.doesNotMatch(specialize({ "a.wgsl": first }, { ON: false }), /enable/);
});

Deno.test("compilable() removes directives that are unknown to a compiler that lists no subgroups", () => {
  const source =
    "enable f16;\nenable subgroups;\ndiagnostic(off, subgroup_uniformity);\nfn f() {}\n";
  assert.equal(compilable(source, new Set(["subgroups"])), source);
  assert.equal(compilable(source, new Set()), "enable f16;\nfn f() {}\n");
});

Deno.test("specialize() throws on a name that the shader does not declare", () => {
  assert.throws(() => specialize({ "a.wgsl": "const N: u32 = 1;" }, { M: 1 }), {
    name: "RangeError",
    message: "Cannot specialize a.wgsl as it declares no such const or alias: current name is M",
  });
});

const MARKED = `// what a shader does
const A: bool = true;
const B: bool = false;
struct Sizes {
  M: u32,
  // only if A
  N: u32, // (
}
// only if A
// unless B
@compute @workgroup_size(1)
fn main(
  local: vec3u,
) {
  // only if B
  if (x) {
    f();
  } else {
    g();
  }
  // unless B
  h(
    1,
  );
  // only if A
  {
    // only if B
    i(2);
    j();
  }
}
k();`;

/** The code of specialised text, without comments. */
const codeOf = (source: string) =>
  unroll(source).split("\n").map((line) => line.replace(/ *\/\/.*/, ""));

Deno.test("specialize() removes the code that \`only if\` and \`unless\` exclude, to its end", () => {
  const [a, b] = ["const A: bool = true;", "const B: bool = false;"];
  const sizes = ["struct Sizes {", "  M: u32,", "  N: u32,", "}"];
  const head = ["@compute @workgroup_size(1)", "fn main(", "  local: vec3u,", ") {"];
  assert.deepEqual(codeOf(specialize({ "a.wgsl": MARKED }, {})), [
    ...[a, b, ...sizes, ...head],
    ...["  h(", "    1,", "  );", "  {", "    j();", "  }", "}", "k();"],
  ]);
  assert.deepEqual(codeOf(specialize({ "a.wgsl": MARKED }, { A: false, B: true })), [
    ...["const A: bool = false;", "const B: bool = true;", "struct Sizes {", "  M: u32,", "}"],
    "k();",
  ]);
  assert.throws(() => specialize({ "a.wgsl": "// only if C\nf();" }, {}), {
    name: "RangeError",
    message: "Cannot decide what depends on C as it must be a boolean constant, true or false",
  });
});

const BOUND = `struct Sizes { // of a
  M: u32, // rows
  // more
  scale: f32,
}
@group(0) @binding(0) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(7) var<storage, read_write> b: B;
@group(0) @binding(21) var<uniform> sizes: Sizes;`;

Deno.test("bindingsOf() returns names, numbers and the fields of uniforms", () => {
  assert.deepEqual(bindingsOf(BOUND), [
    { name: "a", binding: 0, fields: undefined, isWritten: false },
    { name: "b", binding: 7, fields: undefined, isWritten: true },
    {
      name: "sizes",
      binding: 21,
      fields: [{ name: "M", type: "u32" }, { name: "scale", type: "f32" }],
      isWritten: false,
    },
  ]);
  assert.throws(() => bindingsOf(BOUND.replace("f32", "vec4f")), {
    name: "RangeError",
    message: /the uniform Sizes .* current field is scale: vec4f,$/,
  });
});

Deno.test("bindingsOf() refuses the struct of a uniform that is on one line, or missing", () => {
  const uniform = "@group(0) @binding(0) var<uniform> sizes: Sizes;\n";
  const message =
    "Cannot fill the uniform Sizes as its struct must be declared with one field per line: ";
  assert.throws(() => bindingsOf(`${uniform}struct Sizes { M: u32 }`), {
    message: `${message}current declaration is struct Sizes { M: u32 }`,
  });
  assert.throws(() => bindingsOf(uniform), { message: `${message}there is no such struct` });
});

Deno.test("specialize() keeps the condition of a branch if the constant of its marker is true", () => {
  const source = "const ON: bool = true;\n  // branch if ON\n  if (f(x) && (y)) {\n    g();\n  }";
  const bodyOf = (ON: boolean) => codeOf(specialize({ "a.wgsl": source }, { ON })).slice(1);
  assert.deepEqual(bodyOf(true), ["  if (f(x) && (y)) {", "    g();", "  }"]);
  assert.deepEqual(bodyOf(false), ["  {", "    g();", "  }"]);
  for (const ON of [true, false]) {
    assert.throws(() => specialize({ "a.wgsl": source.replace("if (f(x) && (y)) ", "") }, { ON }), {
      name: "RangeError",
      message: /^Cannot find a branch in " {2}\{ /,
    });
  }
});

Deno.test("specialize() marks a loop to unroll if the constant of its marker is true", () => {
  const source =
    "const SINGLE: bool = true;\n  // unroll if SINGLE\n  for (var i = 0u; i < 1; i++) {\n  }";
  const loopOf = (SINGLE: boolean) => unroll(specialize({ "a.wgsl": source }, { SINGLE }));
  assert.match(loopOf(true), /\{ const i = 0u;/);
  assert.match(loopOf(false), /for \(var i = 0u; i < 1; i\+\+\) \{/);
});

Deno.test("unroll() unrolls marked loops, also nested ones", () => {
  const source = [
    "const N: u32 = 4;",
    "const HALF: u32 = N / 2;",
    "// unroll",
    "for (var i = 0u; i < HALF; i++) { // a",
    "  // unroll",
    "  for (var j = 0u; j < 4u; j += 2u) {",
    "    f(i, j); // b",
    "  }",
    "} // c",
    "for (var k = 0u; k < N; k++) { g(k); }",
  ].join("\n");
  const written = unroll(source);
  assert.equal(written.match(/f\(i, j\); \/\/ b/g)!.length, 4);
  assert.equal(written.match(/^\} \/\/ c/gm)!.length, 2);
  assert.match(written, /^\{ const i = 1u; \/\/ a\n/m);
  assert.deepEqual(written.match(/const j = \du;/g), [
    "const j = 0u;",
    "const j = 2u;",
    "const j = 0u;",
    "const j = 2u;",
  ]);
  assert.match(written, /for \(var k = 0u; k < N; k\+\+\) \{ g\(k\); \}/);
  assert.throws(
    () => unroll("// unroll\nfor (var i = 0u; i < limit; i++) {\n}\n"),
    /Cannot unroll a loop up to "limit"/,
  );
  assert.throws(
    () => unroll("// unroll\nfor (var i = 0u; i < 2; i++) {\n  }\n"),
    /Cannot unroll a loop over "i": its closing brace is missing/,
  );
});

const SOURCE = `
const NOTED: bool = false;
struct Sizes {
  N: u32,
  slope: f32,
  isOdd: u32,
  // only if NOTED
  note: u32,
}
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
// only if NOTED
@group(0) @binding(1) var<storage, read> notes: array<u32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;
@compute @workgroup_size(1)
fn main() {
  y[0] = sizes.N;
  y[1] = bitcast<u32>(sizes.slope);
  y[2] = sizes.isOdd;
  // only if NOTED
  y[3] = notes[sizes.note];
}`;

/** A launch of it. */
const launchOn = (y: Tensor) => ({
  shader: { "test.wgsl": SOURCE },
  tensors: { y },
  uniforms: { N: 0xffffffff, slope: 0.5, isOdd: true },
  workgroups: [1] as const,
});

Deno.test("Program.dispatch() binds tensors and uniforms by name", async () => {
  using program = new Program(device);
  const y = poisoned("y", { shape: [4], dtype: "u32" }), notes = tensorOf("notes", y, [3, 4, 5, 6]);
  const launch = launchOn(y);
  program.dispatch({ ...launch, tensors: { notes, y }, uniforms: { ...launch.uniforms, note: 2 } });
  program.run();
  const [without] = await download(device, y);
  assert.deepEqual([...without!], [0xffffffff, 0x3f000000, 1, 0xffffffff]);
  program.dispatch({
    ...launch,
    constants: { NOTED: true },
    tensors: { notes, y },
    uniforms: { N: 1, slope: -0, isOdd: false, note: 2 },
  });
  program.run();
  const [noted] = await download(device, y);
  assert.deepEqual([...noted!], [1, 0x80000000, 0, 5]);
});

Deno.test("Program.dispatch() computes the same with constant sizes, and compiles each set of them once", async () => {
  const own = { ...device, pipelines: new Pipelines() };
  using program = new Program(own);
  const y = poisoned("y", { shape: [4], dtype: "u32" });
  const source = SOURCE.replace("  // only if NOTED\n  note: u32,\n", "")
    .replace("notes[sizes.note]", "notes[0]");
  const launch = { ...launchOn(y), shader: { "test.wgsl": source }, constantSizes: true };
  for (const N of [7, 8, 0xffffffff, 7, 0xffffffff]) {
    program.dispatch({ ...launch, uniforms: { ...launch.uniforms, N } });
  }
  assert.equal(own.pipelines.all.length, 3);
  program.run();
  const [values] = await download(device, y);
  assert.deepEqual([...values!], [0xffffffff, 0x3f000000, 1, 0xffffffff]);
  assert.throws(
    () => program.dispatch({ ...launch, uniforms: { ...launch.uniforms, N: -1 } }),
    /the uniform N must be a u32: current value is -1/,
  );
});

Deno.test("Program.dispatch() throws on missing and unknown names and on values that are no u32", () => {
  using program = new Program(device);
  const y = poisoned("y", { shape: [4], dtype: "u32" }), launch = launchOn(y);
  const throws = (change: object, name: string, message: string) =>
    assert.throws(() => program.dispatch({ ...launch, ...change }), { name, message });
  throws(
    { tensors: { y: undefined } },
    "TypeError",
    "Cannot dispatch test.wgsl as the tensor y is missing: current names are ",
  );
  throws(
    { tensors: { y, z: y } },
    "TypeError",
    "Cannot dispatch test.wgsl as it declares no tensor z: declared names are y,notes",
  );
  throws(
    { constants: { NOTED: true }, tensors: { y } },
    "TypeError",
    "Cannot dispatch test.wgsl as the tensor notes is missing: current names are y",
  );
  throws(
    { uniforms: { N: 1, isOdd: true } },
    "TypeError",
    "Cannot dispatch test.wgsl as the uniform slope is missing: current names are N,isOdd",
  );
  throws(
    { uniforms: { ...launch.uniforms, M: 1 } },
    "TypeError",
    "Cannot dispatch test.wgsl as it declares no uniform M: declared names are N,slope,isOdd,note",
  );
  for (const N of [-1, 1.5, NaN, 2 ** 32]) {
    throws(
      { uniforms: { ...launch.uniforms, N } },
      "RangeError",
      `Cannot dispatch test.wgsl as the uniform N must be a u32: current value is ${N}`,
    );
  }
  assert.equal(program.length, 0);
});

Deno.test("Program.dispatch() throws if an output is also an input, not if one binding is both", () => {
  using program = new Program(device);
  const y = poisoned("y", { shape: [4], dtype: "u32" });
  const launch = { ...launchOn(y), uniforms: { ...launchOn(y).uniforms, note: 2 } };
  const constants = { NOTED: true };
  assert.throws(() => program.dispatch({ ...launch, constants, tensors: { notes: y, y } }), {
    name: "TypeError",
    message:
      'Cannot dispatch test.wgsl as its output y must be in another buffer than its input notes: both are in that of "y"',
  });
  program.dispatch(launch);
  assert.equal(program.length, 1);
});

Deno.test("Program.dispatch() throws if a launch exceeds a limit, and records nothing", () => {
  const program = new Program(device);
  const y = poisoned("y", { shape: [4], dtype: "u32" });
  const launch = launchOn(y);
  const throws = (change: object, message: RegExp, on = program, name = "LimitError") =>
    assert.throws(() => on.dispatch({ ...launch, ...change }), { name, message });
  throws({ workgroups: [0] }, /must have 1 to 65535 workgroups: current counts are \[0\]/);
  throws({ workgroups: [1, 65536] }, /current counts are \[1,65536\]/);
  throws({ workgroups: [NaN] }, /current counts are \[NaN\]/);
  const cpu = new Program({ ...device, isCpu: true });
  throws({ iterations: 32769 }, /at most 32768 times: current bound is 32769/, cpu);
  throws({ iterations: NaN }, /current bound is NaN/, cpu);
  throws({ workgroupBytes: 2 ** 20 }, /bytes of workgroup memory: current need is 1048576 bytes/);
  const unaligned = { y: { ...y, offsetBytes: 4, shape: [3] } };
  throws({ tensors: unaligned }, /offsets must be multiples of/, program, "RangeError");
  const small = new Program({ ...device, maxBindingBytes: 8 });
  throws({}, /binds at most 8 bytes: current size is 16 bytes/, small);
  assert.equal(program.length, 0);
  const full = new Program(dryDevice(device));
  for (let i = 0; i < 65536; i++) full.dispatch(launch);
  throws({}, /a program has at most 65536 launches: current number is 65536/, full);
  const gpu = new Program({ ...device, isCpu: false }); // loops of a GPU have no limit
  gpu.dispatch({ ...launch, iterations: 2 ** 24 });
  throws({ iterations: NaN }, /current bound is NaN/, gpu);
});

Deno.test("Program.compiling() resolves once the shaders that compile in the background are compiled", async () => {
  const made: string[] = [], { gpu } = dryDevice(device);
  const pending = [Promise.withResolvers<object>(), Promise.withResolvers<object>()];
  const own = {
    ...dryDevice(device),
    gpu: { ...gpu, createComputePipeline: () => made.push("now") } as unknown as GPUDevice,
    pipelines: new Pipelines(),
    background: {
      compile: () => pending[made.push("background") - 1]!.promise as Promise<GPUComputePipeline>,
      idle: () => Promise.resolve(),
    },
  };
  const y = createTensor(own, "y", { shape: [4], dtype: "u32" });
  const program = new Program(own);
  for (const name of ["a", "b", "b"]) {
    program.dispatch({ ...launchOn(y), shader: { [`${name}.wgsl`]: SOURCE } });
  }
  assert.deepEqual(made, ["background", "background"]);
  const pipelines = own.pipelines.all, compiling = program.compiling();
  pending[0]!.resolve({ label: "compiled" });
  await pipelines[0]!.compiling;
  assert.deepEqual(pipelines[0]!.pipeline, { label: "compiled" });
  assert.ok(program.compiling());
  pending[1]!.reject(new Error("invalid")); // the device reports it when the shader is compiled at once
  await compiling;
  assert.equal(program.compiling(), undefined);
  assert.equal(made.length, 2);
  assert.equal(pipelines[1]!.pipeline as unknown, 3);
  assert.deepEqual(made, ["background", "background", "now"]);
});

Deno.test("Program.dispatch() compiles a shader once per set of constants", () => {
  const own = { ...device, pipelines: new Pipelines() };
  using program = new Program(own);
  const y = poisoned("y", { shape: [4], dtype: "u32" });
  const shader = { "test.wgsl": `const N: u32 = 1;\n${SOURCE}` };
  for (const N of [1, 2, 1]) program.dispatch({ ...launchOn(y), shader, constants: { N } });
  assert.deepEqual([program.length, own.pipelines.all.length], [3, 2]);
  const other = { "test.wgsl": `${shader["test.wgsl"]}\n// another text` };
  for (const N of [1, 1]) program.dispatch({ ...launchOn(y), shader: other, constants: { N } });
  assert.equal(own.pipelines.all.length, 3);
});

const FAULTY_FRAGMENT = `// writes
fn write() {
  // unroll
  for (var i = 0u; i < 2u; i++) {
    y[i] = five;
  }
}`;

Deno.test("Device.check() names the file and line of a mistake in a shader, also in an unrolled loop", async () => {
  const files = {
    "kernels/main.wgsl": SOURCE.replace("  y[0]", "  write();\n  y[0]"),
    "kernels/fragment.wgsl": FAULTY_FRAGMENT,
  };
  using own = await openTestDevice();
  using program = new Program(own);
  const y = createTensor(own, "y", { shape: [4], dtype: "u32" });
  program.dispatch({ ...launchOn(y), shader: files });
  await assert.rejects(download(own, y), {
    name: "DeviceError",
    kind: "invalid",
    message: /y\[i\] = five; \/\/ kernels\/fragment\.wgsl:5/,
  });
  assert.equal((await download(own, y))[0]!.length, 4, "the device stays usable");
  program.run();
  await assert.rejects(download(own, y), { name: "DeviceError", message: /kernels\/main\.wgsl/ });
});

Deno.test("createTensor() throws if a dimension is not a positive integer", () => {
  for (const shape of [[0], [NaN], [2, -1], [1.5]]) {
    assert.throws(() => createTensor(device, "x", { shape, dtype: "f32" }), {
      name: "RangeError",
      message: /Cannot create tensor "x" as all dimensions must be positive integers/,
    });
  }
});
