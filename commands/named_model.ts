import { type Command, Option } from "@commander-js/extra-typings";
import { flagOf } from "../files/command_line.ts";
import { type GenerationPlan, sequencesAtOnce } from "../generate/limits.ts";
import { findSource } from "../generate/load.ts";
import { MODEL_NAMES, type ModelSource } from "../generate/source.ts";
import type { Device } from "../kernels/device.ts";
import { freeMemory } from "../kernels/fit.ts";
import type { Gpt } from "../model/gpt.ts";
import { resolvePrecision } from "../model/precision.ts";
import { TRAIN_OPTIONS } from "../train/options.ts";
import { gpuOption } from "./gpu.ts";
import { ProgressDisplay } from "./progress.ts";

/** The values of `withModelOptions()`. */
interface ModelOptions {
  run: string;
  checkpoint?: string | undefined;
  model?: string | undefined;
  base?: string | undefined;
}

/** The run that is used if no other is named. */
const DEFAULT_RUN = "runs/default";

/** The run that suggested trainings make on the user's text: the default one mostly has another text already. */
export const OWN_RUN = "runs/mine";

/** Adds the options that name a model, and the provider that computes it, to a command without other options. */
export function withModelOptions(program: Command) {
  return program.addOption(gpuOption()).optionsGroup("Model:")
    .option("--run <directory>", "use the newest checkpoint of this run", DEFAULT_RUN)
    .option(
      "--checkpoint <which>",
      "use another checkpoint of the run: best, latest, a number of steps, or a directory",
    )
    .addOption(
      new Option(
        "--model <name>",
        `use another model: ${Object.keys(MODEL_NAMES).slice(0, 3).join(", ")}, ` +
          "hf:OWNER/NAME, a directory or a .gguf file",
      ).conflicts(["run", "checkpoint"]),
    )
    .option("--base <model>", TRAIN_OPTIONS.base.help);
}

/** The words that name the same model to another command. */
export function modelWords(
  { run, quantize, ...others }: ModelOptions & { quantize?: string | undefined },
): string[] {
  const { checkpoint, model, base } = others;
  const named = { run: run === DEFAULT_RUN ? undefined : run, checkpoint, model, base, quantize };
  return Object.entries(named).flatMap(([name, value]) =>
    value === undefined ? [] : [flagOf(name), value]
  );
}

/** The option that keeps a model's matrices in fewer bits. */
export function quantizeOption() {
  return new Option(
    "--quantize <type>",
    "keep matrices as int8: half the memory of f16, and faster on a GPU",
  ).choices(["int8"] as const);
}

/**
 * Makes sure that a device has room for a model and what it generates.
 *
 * @throws {UserError} naming the option to lower.
 */
export function checkRoom(
  device: Device,
  { config }: Pick<ModelSource, "config">,
  { quantize, ...plan }: Omit<GenerationPlan, "freeBytes"> & Pick<Gpt, "quantize">,
): void {
  const model = { device, config, precision: resolvePrecision(device, "auto"), quantize };
  sequencesAtOnce(model, { ...plan, freeBytes: freeMemory() });
}

/** Finds the model that a command's options name, and displays the progress of a download on stderr. */
export async function findNamedModel(
  { run, checkpoint, model, base }: ModelOptions,
): ReturnType<typeof findSource> {
  using display = new ProgressDisplay();
  return await findSource({
    run,
    ...(checkpoint === undefined ? {} : { checkpoint }),
    ...(model === undefined ? {} : { model }),
    base,
    ...display.callbacks,
    onWarning: (sentence) => display.callbacks.onNotice(`Warning: ${sentence}`),
  });
}
