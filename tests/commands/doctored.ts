import process from "node:process";
import pinned from "../../dawn/deno.json" with { type: "json" };

/**
 * Runs doctor as if the machine had another adapter, which the first argument describes: `none`, or the words
 * `cpu` or `gpu` and maybe `f16`, joined by `+`. The second says what Dawn does: `absent`, `crash`, `late`, or what its
 * process prints. There are two GPUs for ranks.
 */
const [what, dawn] = process.argv.splice(2, 2);
const words = what!.split("+");
const requestAdapter = navigator.gpu.requestAdapter.bind(navigator.gpu);
navigator.gpu.requestAdapter = async (options) => {
  if (what === "none") return null;
  const adapter = (await requestAdapter(options))!;
  const features = new Set(adapter.features);
  if (!words.includes("f16")) features.delete("shader-f16");
  const info = { description: "Some adapter", isFallbackAdapter: words.includes("cpu") };
  return Object.defineProperties(adapter, { features: { value: features }, info: { value: info } });
};
Deno.statSync = () => {
  if (dawn === "absent") throw new Deno.errors.NotFound();
  return { isFile: true } as Deno.FileInfo;
};
Deno.readTextFileSync = () => JSON.stringify({ version: pinned.imports.webgpu.split("@").at(-1) });
const ended = dawn === "crash"
  ? { code: 139, signal: "SIGSEGV", stdout: "", stderr: "" }
  : { code: 0, signal: null, stdout: `Warning of Dawn\n${dawn}\n`, stderr: "" };
if (dawn === "late") AbortSignal.timeout = () => AbortSignal.abort();
const GPUS = {
  code: 0,
  signal: null,
  stdout: "0000:1b:00.0 /dev/nvidia0\n0000:43:00.0 /dev/nvidia1\n",
  stderr: "",
};
const bytes = (text: string) => new TextEncoder().encode(text);
Deno.Command = class {
  readonly #status;
  constructor(program: string) {
    this.#status = program === "sh" ? GPUS : ended; // that of own_gpu.sh, and Dawn's
  }
  output() {
    const { stdout, stderr, ...status } = this.#status;
    return Promise.resolve({ ...status, stdout: bytes(stdout), stderr: bytes(stderr) });
  }
} as unknown as typeof Deno.Command;
await import("../../commands/doctor.ts");
