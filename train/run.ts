import type { Documents } from "../data/text/documents.ts";
import type { Batches } from "../data/tokens/batches.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import type { Corpus } from "../data/tokens/corpus.ts";
import type { HubOptions } from "../data/hub/hub.ts";
import type { Transport } from "../distributed/transport.ts";
import type { ModelSource } from "../generate/source.ts";
import type { Device } from "../kernels/device.ts";
import type { RecomputeMode } from "../model/activations.ts";
import type { GptConfig, PresetName } from "../model/config.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import type { Precision } from "../model/precision.ts";
import type { TrainingMemory } from "./limits.ts";
import type { ResolvedOptions, TrainOptions } from "./options.ts";
import type { Plan } from "./plan/plan.ts";
import type { TrainingDefaults } from "./resolve.ts";
import type { RunDirectory } from "./directory/run_directory.ts";
import type { StepShare } from "./step_share.ts";

/**
 * A training, as far as it is decided: where it runs, the choices that do not depend on its data, and all of them.
 *
 * @module
 */

/** The device and directory of a training, and the signal that ends it early. */
export interface Workplace {
  readonly device: Device;
  /** The path of the run directory. */
  readonly out: string;
  /** The run directory; undefined for a dry run, which changes nothing on the disk. */
  readonly directory: RunDirectory | undefined;
  readonly signal: AbortSignal | undefined;
  readonly hub: Pick<HubOptions, "environment">;
  /** The transport to the other ranks of the training. */
  readonly transport: Transport;
  /** The documents that the caller has given in place of a name. */
  readonly documents?: Documents | undefined;
  /** Likewise those to validate with. */
  readonly validationDocuments?: Documents | undefined;
}

/** A checkpoint to resume from. */
export interface Resumed {
  path: string;
  state: TrainerState;
  config: GptConfig;
  tokenizer: Tokenizer;
  /** The base of the checkpoint's adapters, if it holds adapters only. */
  base?: ModelSource;
}

/** The choices of a training that do not depend on its data. */
export interface Setup {
  /** The options that are given; the others have the values of the checkpoint, if there is one, or their defaults. */
  readonly given: TrainOptions & Pick<ResolvedOptions, "optimizer">;
  /** Names of the options that the user typed, now or at an earlier start. */
  readonly typed: readonly string[];
  /** The checkpoint from which the training is resumed: of this run, or of another that it continues. */
  readonly resumed: Resumed | undefined;
  /** Whether the options give the data another name than the checkpoint does. */
  readonly hasNewData: boolean;
  /** The model from which a new run starts, unless it starts from random parameters. */
  readonly initial: ModelSource | undefined;
  /** The configuration of the resumed or initial model, with the adapters that are trained. */
  readonly config: GptConfig | undefined;
  readonly preset: PresetName | "auto";
  readonly precision: Precision;
  readonly defaults: TrainingDefaults;
  /** The plan that decides sizes and steps, if one does. */
  readonly plan?: Plan;
}

/** A training with every choice made. */
export interface Run extends Workplace, Setup {
  readonly corpus: Corpus;
  readonly batches: Batches;
  readonly options: ResolvedOptions;
  readonly config: GptConfig;
  /** What the backward pass computes again. */
  readonly recompute: RecomputeMode;
  /** Bytes on the device. */
  readonly memory: TrainingMemory;
  /** The model from which the run started, as its checkpoints record it. */
  readonly source: TrainerState["source"] | undefined;
  /** What this rank computes of each step. */
  readonly share: StepShare;
}
