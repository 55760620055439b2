import { status } from "./command.ts";
import { DataProgressDisplay } from "./progress.ts";
import { findSource } from "../generate/load.ts";
import { TRAIN_OPTIONS } from "../train/options.ts";

/** How commands name a model. */
interface ModelOptions {
  run: string;
  checkpoint?: string | undefined;
  model?: string | undefined;
  base?: string | undefined;
}

/** Help for `--base`. */
export const BASE_HELP: string = TRAIN_OPTIONS.base.help;

/** Finds the model that a command's options name, and shows on stderr how far that is. */
export async function findNamedModel(
  { run, checkpoint, model, base }: ModelOptions,
): ReturnType<typeof findSource> {
  const display = new DataProgressDisplay();
  try {
    return await findSource({
      run,
      ...(checkpoint === undefined ? {} : { checkpoint }),
      ...(model === undefined ? {} : { model }),
      base,
      onProgress: (progress) => display.show(progress),
      onNotice: status,
      onWarning: (sentence) => status(`Warning: ${sentence}`),
    });
  } finally {
    display.close();
  }
}
