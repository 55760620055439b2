import assert from "node:assert/strict";
import { BackgroundCompiler } from "../../kernels/background_compiler.ts";

const sources = Array.from({ length: 12 }, (_, i) => ({
  label: `${i}`,
  code: "x".repeat(1 + i),
}));

/** A device that compiles when `ready` says so, two shaders at a time, and notes which. */
function compilingDevice(ready: () => Promise<unknown>) {
  const compiled: string[] = [], state = { destroyed: 0, compiled };
  let threads = [Promise.resolve(), Promise.resolve()] as Promise<unknown>[];
  const gpu = {
    createShaderModule: ({ code }: { code: string }) => code,
    createComputePipelineAsync({ compute: { module } }: { compute: { module: string } }) {
      const [next, other] = threads,
        made = next!.then(ready).then(() => {
          compiled.push(module);
          return `pipeline of ${module}`;
        });
      threads = [other!, made];
      return made;
    },
    destroy: () => state.destroyed++,
  };
  return { gpu: gpu as unknown as GPUDevice, state };
}

const after = (ms: number) => () => new Promise((resolve) => setTimeout(resolve, ms));

Deno.test("BackgroundCompiler has further devices compile, the longest shaders first, and then the device itself", async () => {
  const helpers: ReturnType<typeof compilingDevice>[] = [], ready = Promise.withResolvers<void>();
  const main = compilingDevice(() => ready.promise); // when the others have compiled four
  const openHelper = () => {
    helpers.push(compilingDevice(async () => {
      await after(1)();
      if (helpers.flatMap(({ state }) => state.compiled).length >= 3) ready.resolve();
    }));
    return Promise.resolve(helpers.at(-1)!.gpu);
  };
  const compiler = new BackgroundCompiler(main.gpu, openHelper, { cores: 8, patienceMs: 1 });
  const working = setInterval(() => {}, 10); // a device that compiles keeps the process alive
  const made = await Promise.all(sources.map((source) => compiler.compile(source)));
  clearInterval(working);
  assert.deepEqual(made as unknown, sources.map(({ code }) => `pipeline of ${code}`));
  assert.equal(helpers.length, 2); // and its own two threads have two logical cores each
  const helped = helpers.flatMap(({ state: { compiled } }) => compiled);
  assert.equal(new Set(helped).size, helped.length, `${helped}`);
  assert.equal(Math.max(...helped.map(({ length }) => length)), 12);
  assert.ok(helped.length >= 4, `${helped}`);
  const { compiled } = main.state; // once each, also what others compiled
  assert.equal(compiled.length, sources.length);
  assert.equal(new Set(compiled).size, sources.length);
  while (helpers.some(({ state: { destroyed } }) => destroyed === 0)) await after(1)();
  assert.deepEqual(helpers.map(({ state: { destroyed } }) => destroyed), [1, 1]);
});

Deno.test("BackgroundCompiler opens no further device if all is compiled soon, and needs none", async () => {
  let opened = 0;
  const openHelper = () => {
    opened++;
    return Promise.reject(new Error("there is none"));
  };
  for (const [patienceMs, tries] of [[60_000, 0], [1, 1]] as const) {
    const { gpu, state } = compilingDevice(after(5));
    const compiler = new BackgroundCompiler(gpu, openHelper, { cores: 8, patienceMs });
    for (const source of sources) void compiler.compile(source);
    await compiler.idle();
    assert.equal(state.compiled.length, sources.length);
    assert.equal(opened, tries);
  }
});

Deno.test("BackgroundCompiler compiles on the device what a further device refuses", async () => {
  const { gpu, state } = compilingDevice(after(8));
  const lost = {
    createShaderModule() {
      throw new Error("it is lost");
    },
    destroy() {},
  } as unknown as GPUDevice;
  const openHelper = () => Promise.resolve(lost);
  const compiler = new BackgroundCompiler(gpu, openHelper, { cores: 8, patienceMs: 1 });
  await Promise.all(sources.map((source) => compiler.compile(source)));
  assert.equal(state.compiled.length, sources.length);
});
