import { Option } from "@commander-js/extra-typings";
import { loadSource } from "../generate/load.ts";
import { countParameters } from "../model/parameters.ts";
import { checkOutput, exportModel } from "../train/export.ts";
import { command, output, runCommand, status } from "./command.ts";
import { openGpu } from "./gpu.ts";
import { findNamedModel, withModelOptions } from "./named_model.ts";
import { giveBack, HUB } from "./permissions.ts";

/** `export`: writes a model for other programs. */
const program = withModelOptions(
  command("export", "Write a model for Hugging Face transformers or llama.cpp."),
)
  .optionsGroup("Output:")
  .addOption(
    new Option("--to <format>", "hf: a directory for transformers; gguf: a file for llama.cpp")
      .choices(["hf", "gguf"] as const).default("hf" as const),
  )
  .addOption(
    new Option("--dtype <type>", "type to which matrices are rounded; q8_0 only with --to gguf")
      .choices(["f32", "f16", "q8_0"] as const).default("f32" as const),
  )
  .option("--out <path>", "file or directory to write (default: exported, or exported.gguf)")
  .action(({ to, dtype, ...options }) =>
    runCommand(async () => {
      const out = options.out ?? (to === "hf" ? "exported" : "exported.gguf");
      checkOutput(out, to, dtype);
      const source = await findNamedModel(options);
      giveBack(...HUB);
      const device = await openGpu(options);
      const name = source.checkpoint ?? source.spec;
      status(`writing ${countParameters(source.config)} parameters of ${name} in ${dtype}`);
      if (source.adapters) status(`adapters are merged into their base, ${source.adapters.base}`);
      const model = loadSource(device, source, { precision: "f32" });
      await exportModel(model, { to, dtype, out, onNotice: status });
      output(`${out}\n`);
    })
  );

await program.parseAsync();
