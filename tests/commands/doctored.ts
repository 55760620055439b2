import process from "node:process";

/**
 * Runs doctor as if the machine had another adapter, which the first argument describes: `none`, or the words
 * `cpu` or `gpu` and maybe `f16`, joined by `+`.
 */
const [what] = process.argv.splice(2, 1);
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
await import("../../commands/doctor.ts");
