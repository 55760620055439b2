import assert from "node:assert/strict";
import { dryDevice } from "../../kernels/dry_device.ts";
import { MAX_LAUNCHES, Program } from "../../kernels/program.ts";
import { specialize } from "../../kernels/shader.ts";
import { createTensor, download } from "../../kernels/tensor.ts";
import { openDevice } from "../../kernels/device.ts";
import { device, poisoned } from "./harness.ts";

Deno.test("specialize() replaces the initializers of constants and aliases", () => {
  const source = "enable f16;\nalias real = f16; // type\nconst N: u32 = 1;\nconst NAME: u32 = 2;";
  assert.equal(
    specialize(source, { real: "f16", N: 7 }),
    "enable f16;\nalias real = f16; // type\nconst N: u32 = 7;\nconst NAME: u32 = 2;",
  );
});

Deno.test("specialize() drops `enable f16` where nothing is f16", () => {
  const source = "enable f16;\nalias real = f16;\nalias quad = vec4<real>;";
  assert.equal(
    specialize(source, { real: "f32" }),
    "\nalias real = f32;\nalias quad = vec4<real>;",
  );
  assert.match(specialize("enable f16;\nalias quad = vec4<f16>;", {}), /^enable f16;/);
});

Deno.test("specialize() throws on a name that the shader does not declare", () => {
  assert.throws(() => specialize("const N: u32 = 1;", { M: 1 }), {
    name: "RangeError",
    message: 'Cannot specialize "M": the shader declares no such const or alias',
  });
});

Deno.test("specialize() writes out marked loops, nested ones too", () => {
  const source = [
    "const N: u32 = 4;",
    "const HALF: u32 = N / 2;",
    "// unroll",
    "for (var i = 0u; i < HALF; i++) {",
    "  // unroll",
    "  for (var j = 0u; j < 4u; j += 2u) {",
    "    f(i, j);",
    "  }",
    "}",
    "for (var k = 0u; k < N; k++) { g(k); }",
  ].join("\n");
  const written = specialize(source, { N: 4 });
  assert.equal(written.match(/f\(i, j\);/g)!.length, 4);
  assert.deepEqual(written.match(/const j = \du;/g), [
    "const j = 0u;",
    "const j = 2u;",
    "const j = 0u;",
    "const j = 2u;",
  ]);
  assert.match(written, /for \(var k = 0u; k < N; k\+\+\) \{ g\(k\); \}/);
  assert.throws(
    () => specialize("// unroll\nfor (var i = 0u; i < limit; i++) {\n}\n", {}),
    /Cannot unroll a loop up to "limit"/,
  );
  assert.throws(
    () => specialize("// unroll\nfor (var i = 0u; i < 2; i++) {\n  }\n", {}),
    /Cannot unroll a loop over "i": its closing brace is missing/,
  );
});

const SOURCE = `
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn main() { y[0] = 5u; }`;

Deno.test("Program checks limits before it records", () => {
  const program = new Program(device);
  const y = poisoned("y", { shape: [4], dtype: "u32" });
  const dispatch = {
    label: "test.wgsl",
    source: SOURCE,
    constants: {},
    tensors: [y],
    workgroups: [1] as const,
  };
  const throws = (change: object, message: RegExp, on = program) =>
    assert.throws(() => on.dispatch({ ...dispatch, ...change }), { name: "RangeError", message });
  throws({ workgroups: [0] }, /takes 1 to 65535 workgroups: current counts are \[0\]/);
  throws({ workgroups: [1, 65536] }, /current counts are \[1,65536\]/);
  throws({ workgroups: [NaN] }, /current counts are \[NaN\]/);
  const cpu = new Program({ ...device, isCpu: true });
  throws({ iterations: 32769 }, /at most 32768 times: current bound is 32769/, cpu);
  throws({ iterations: NaN }, /current bound is NaN/, cpu);
  throws({ workgroupBytes: 2 ** 20 }, /bytes of workgroup memory: current need is 1048576 bytes/);
  throws({ tensors: [{ ...y, offsetBytes: 4, shape: [3] }] }, /offsets must be multiples of/);
  const small = new Program({ ...device, maxBindingBytes: 8 });
  throws({}, /binds at most 8 bytes: current size is 16 bytes/, small);
  assert.equal(program.length, 0);
  const full = new Program(dryDevice(device));
  for (let i = 0; i < MAX_LAUNCHES; i++) full.dispatch(dispatch);
  throws({}, /a program has at most 65536 launches/, full);
  const gpu = new Program({ ...device, isCpu: false }); // whose loops have no bound
  gpu.dispatch({ ...dispatch, iterations: 2 ** 24 });
  throws({ iterations: NaN }, /current bound is NaN/, gpu);
});

Deno.test("Program compiles a shader once for each set of constants", () => {
  const own = { ...device, pipelines: new Map<string, GPUComputePipeline>() };
  const program = new Program(own);
  const source = `const N: u32 = 1;\n${SOURCE}`;
  const tensors = [poisoned("y", { shape: [4], dtype: "u32" })];
  for (const N of [1, 2, 1]) {
    program.dispatch({ label: "test.wgsl", source, constants: { N }, tensors, workgroups: [1] });
  }
  assert.deepEqual([program.length, own.pipelines.size], [3, 2]);
  program.destroy();
});

Deno.test("a device reports a faulty shader when results are read", async () => {
  const own = await openDevice();
  const y = createTensor(own, "y", { shape: [1], dtype: "u32" });
  new Program(own).dispatch({
    label: "faulty.wgsl",
    source: SOURCE.replace("5u", "five"),
    constants: {},
    tensors: [y],
    workgroups: [1],
  });
  await assert.rejects(download(own, y), { name: "DeviceError", message: /faulty\.wgsl|five/ });
  own.destroy();
});

Deno.test("createTensor() throws on dimensions that are no positive integers", () => {
  for (const shape of [[0], [NaN], [2, -1], [1.5]]) {
    assert.throws(() => createTensor(device, "x", { shape, dtype: "f32" }), {
      name: "RangeError",
      message: /Cannot create tensor "x" as all dimensions must be positive integers/,
    });
  }
});
