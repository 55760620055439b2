import { status } from "../data/command.ts";
import { DataProgressDisplay } from "../data/progress.ts";
import { findSource } from "./load.ts";

/** How commands name a model. */
interface ModelOptions {
  run: string;
  checkpoint?: string | undefined;
  model?: string | undefined;
}

/** Finds the model that a command's options name, and shows on stderr how far that is. */
export async function findNamedModel(
  { run, checkpoint, model }: ModelOptions,
): ReturnType<typeof findSource> {
  const display = new DataProgressDisplay();
  try {
    return await findSource({
      run,
      ...(checkpoint === undefined ? {} : { checkpoint }),
      ...(model === undefined ? {} : { model }),
      onProgress: (progress) => display.show(progress),
      onNotice: status,
      onWarning: (sentence) => status(`Warning: ${sentence}`),
    });
  } finally {
    display.close();
  }
}
