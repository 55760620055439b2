import type { Corpus } from "../data/tokens/corpus.ts";
import { UserError } from "../files/user_error.ts";
import { hashModel, MODEL_NAMES } from "../generate/source.ts";
import { shortageOf } from "../kernels/fit.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import type { PresetName } from "../model/config.ts";
import { listCheckpoints } from "../model/files/checkpoint.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import { parameterTable } from "../model/parameters.ts";
import { resolvePrecision } from "../model/precision.ts";
import { newModel } from "./architecture.ts";
import { notice, notices, reporting, type TrainEvent } from "./events.ts";
import { findInitial, holdBase, loraOf, withAdapters } from "./initial_model.ts";
import { checkTraining } from "./limits.ts";
import { OPTIMIZERS } from "./optimizer.ts";
import { DEFAULT_OPTIONS, savedIn, type TrainOptions } from "./options.ts";
import { DEPTHS, describePlan, withFigures } from "./plan/plan.ts";
import { checkSamePlan, planOptions } from "./plan/plan_file.ts";
import { findRenamed, wholeSpec } from "./renamed.ts";
import {
  checkInitial,
  checkOptimizer,
  defaultsForData,
  fineTuningDefaults,
  presetDefaults,
  resolveOptions,
  resumeOptions,
  sizesOf,
  type TrainingDefaults,
  typedNames,
} from "./resolve.ts";
import type { Resumed, Run, Setup, Workplace } from "./run.ts";
import { jumpOf } from "./schedule.ts";
import {
  allowedDepths,
  checkSizes,
  isPlanned,
  isSizeOpen,
  sizeReason,
  withSizes,
} from "./plan/size.ts";
import { StepShare } from "./step_share.ts";
import { batchesOf, dataPlaces, littleHeldOut, shortRows } from "./training_data.ts";

/**
 * Every choice of a training, before anything is allocated: first those that do not need its data, which may take
 * long to read, then the data, then the rest.
 *
 * @module
 */

/**
 * Opens a device of the provider that is given, or of the one that the checkpoint names.
 *
 * @throws {UserError} if it cannot be opened; the hint says how to resume a training of another provider.
 */
export async function* openDeviceFor(
  { gpu }: Partial<Pick<TrainOptions, "gpu">>,
  checkpoint: Resumed | undefined,
): AsyncGenerator<TrainEvent, Device> {
  const { gpu: saved } = checkpoint ? savedIn(checkpoint.state) : DEFAULT_OPTIONS;
  const isKept = gpu === undefined && saved === "dawn";
  if (isKept) yield notice("--gpu dawn, as in the checkpoint");
  try {
    return await openDevice({ gpu: gpu ?? saved });
  } catch (error) {
    if (isKept && error instanceof UserError) {
      const native = "Or resume with --gpu native; the last bits of the results may differ";
      error.hint = error.hint === undefined ? native : `${error.hint}\n${native}`;
    }
    throw error;
  }
}

/** Makes the choices that do not depend on the data, and throws if the training cannot run. */
export async function* makeSetup(
  place: Workplace,
  wanted: Partial<TrainOptions>,
  checkpoint: Resumed | undefined,
): AsyncGenerator<TrainEvent, Setup> {
  const { device, directory, signal, hub } = place;
  const renamed = checkpoint && (yield* reporting(
    (callbacks) => findRenamed(wanted, checkpoint, dataPlaces(place), callbacks),
    signal,
  ));
  const resumed = checkpoint && withSource(checkpoint, renamed?.source);
  const { options, typed } = resumed
    ? resumeOptions(wanted, resumed.state, resumed.path, renamed?.options)
    : { options: { ...DEFAULT_OPTIONS, ...wanted }, typed: typedNames(wanted) };
  if (resumed && options.plan !== undefined) checkSamePlan(options.plan, resumed);
  const sized = resumed ? options : withSizes(options, typed);
  // most published models were trained with AdamW, and fine-tuning them with Muon gains nothing (docs/checkpoints.md)
  const { optimizer = sized.initFrom === undefined ? "muon" : "adamw" } = sized;
  checkOptimizer(wanted, { optimizer });
  const initial = resumed ? undefined : yield* findInitial(sized, { ...hub, signal });
  const given = { ...withAdapters(sized, resumed?.config ?? initial?.config), optimizer };
  const lora = loraOf(given);
  const config = resumed?.config ?? (initial && { ...initial.config, ...(lora ? { lora } : {}) });
  if (config) parameterTable(config, given.freeze); // throws if adapters, freezing and model contradict
  if (given.keepBase && !lora) {
    throw new UserError(
      `Cannot train as --keep-base needs --lora-rank: current value is ${given.keepBase}`,
    );
  }
  const precision = resolvePrecision(device, given.precision);
  const { preset, reason, defaults }: ChosenDefaults = config && given.initFrom !== undefined
    ? {
      preset: "auto",
      reason: `starting from ${resumed?.state.source?.spec ?? initial!.spec}`,
      defaults: fineTuningDefaults(config),
    }
    : chooseDefaults(device, given, resumed !== undefined);
  yield notice(
    `${resumed && preset !== "auto" ? `preset ${preset}, as in the checkpoint` : reason}; ` +
      `precision ${precision} on ${device.name}` +
      (device.provider === "dawn" ? " through Dawn" : ""),
  );
  if (initial?.adapters) {
    const { spec, adapters: { base } } = initial;
    yield notice(`the adapters of ${spec} are merged into their base, ${base}`);
  }
  if (config) checkInitial(given, config);
  // the least that the time may choose
  const least = !resumed && isSizeOpen(given)
    ? withSizes(
      { ...given, depth: allowedDepths(given, typed, defaults)[0] ?? DEPTHS.at(-1)! },
      typed,
    )
    : given;
  const sizes = sizesOf(least, defaults);
  if (!config) checkSizes(least, defaults, preset);
  checkTraining(device, {
    ...given,
    ...sizes,
    ...(!resumed && isPlanned(given) ? { batchSize: given.batchSize ?? LEAST_BATCH } : {}),
    precision,
    isResumed: resumed !== undefined,
    config: config ?? newModel({ ...given, ...sizes, vocabularySize: LEAST_VOCABULARY }),
  });
  if (lora && directory) yield* holdBase(directory, (resumed?.base ?? initial)!.directory, given);
  const { data, validationData } = renamed?.options ?? {};
  const hasNewData = (data ?? validationData) !== undefined;
  return { given, typed, resumed, hasNewData, initial, config, preset, precision, defaults };
}

/** Tokens of the smallest vocabulary, a lower bound until the data is known; a multiple of a kernel's vectors. */
const LEAST_VOCABULARY = 64;

/** Rows of the smallest batch, a lower bound until a plan decides. */
const LEAST_BATCH = 1;

/** A checkpoint whose model source has a new name, if it has one. */
function withSource(checkpoint: Resumed, source: TrainerState["source"] | undefined): Resumed {
  return source ? { ...checkpoint, state: { ...checkpoint.state, source } } : checkpoint;
}

/** Makes the choices that depend on the data. */
export function* finishSetup(
  place: Workplace,
  setup: Setup,
  corpus: Corpus,
): Generator<TrainEvent, Run> {
  const { given, typed, resumed, initial, preset, precision, defaults } = setup;
  const sizes = sizesOf(given, defaults), batches = batchesOf(corpus, { ...given, ...sizes });
  yield* notices(shortRows(batches, sizes.contextLength));
  const named = {
    data: corpus.data,
    validationData: corpus.validationData,
    tokenizer: wholeSpec(given.tokenizer, ["gpt2"]),
    initFrom: wholeSpec(given.initFrom, Object.keys(MODEL_NAMES)),
    vocabulary: corpus.vocabulary ?? given.vocabulary,
  };
  const { step: first = 0, batchIndex = 0 } = resumed?.state ?? {};
  const ranks = place.transport.size, batchesPerStep = ranks * given.gradientAccumulation;
  const began = resumed && savedIn(resumed.state);
  const options = resolveOptions({ ...given, ...named }, {
    gpu: place.device.provider,
    preset,
    precision,
    defaults,
    stepsIn: (epochs) => first + (epochs * batches.perEpoch - batchIndex) / batchesPerStep,
    ranks,
    typed,
    began,
  });
  const plan = setup.plan && {
    ...setup.plan,
    ...withFigures(options, {
      given,
      blockParameters: setup.plan.blockParameters,
      trainingTokens: corpus.training.length,
      ranks,
    }),
    options: planOptions(given, options),
  };
  const isSaved = (step: number) => listCheckpoints(place.out).some((saved) => saved.step === step);
  yield* notices(
    plan && describePlan(plan),
    began && first < options.steps
      ? jumpOf(first, { before: began, now: options, isSaved })
      : undefined,
    littleHeldOut(corpus),
  );
  const { vocabularySize } = corpus.tokenizer;
  const config = setup.config ?? newModel({ ...options, vocabularySize });
  const { memory, recompute, shortage } = checkTraining(place.device, {
    ...options,
    config,
    isResumed: resumed !== undefined,
    hasConversations: corpus.validation.answersOf !== undefined,
  });
  if (shortage) {
    yield notice(
      `--recompute ${recompute}, as there is too little memory to keep all activations ` +
        shortageOf(shortage),
    );
  }
  const { optimizer, freeze } = options;
  if (!parameterTable(config, freeze).some((p) => p.trained && OPTIMIZERS[optimizer].updates(p))) {
    yield notice(
      `--optimizer ${optimizer} has nothing to update, as no matrix of a block is trained: ` +
        "AdamW updates all that is",
    );
  }
  const source = resumed?.state.source ??
    (initial && { spec: initial.spec, sha256: hashModel(initial) });
  return {
    ...place,
    ...setup,
    ...(plan ? { plan } : {}),
    corpus,
    batches,
    options,
    config,
    recompute,
    memory,
    source,
    share: new StepShare(place.transport, batches, {
      step: first,
      batchIndex,
      gradientAccumulation: options.gradientAccumulation,
      syncEvery: options.syncEvery,
    }),
  };
}

/** What determines the defaults of a training, and a notice about it. */
interface ChosenDefaults {
  preset: PresetName | "auto";
  reason: string;
  defaults: TrainingDefaults;
}

/** The preset that a training uses on a device, which `auto` leaves open, and the reason. */
export function choosePreset(
  device: Device,
  preset: PresetName | "auto",
): ChosenDefaults {
  const [chosen, reason] = preset !== "auto"
    ? [preset, `preset ${preset}, as asked`] as const
    : device.isCpu
    ? ["nano", "preset nano, as no GPU was found and the CPU computes"] as const
    : ["mini", "preset mini, as there is a GPU"] as const;
  return { preset: chosen, reason, defaults: presetDefaults(chosen) };
}

/** What determines the defaults of a model with random parameters: a preset, or the depth or plan that replaces it. */
function chooseDefaults(
  device: Device,
  given: TrainOptions,
  isResumed: boolean,
): ChosenDefaults {
  const reason = isResumed && given.depth !== undefined
    ? `depth ${given.depth}, as in the checkpoint`
    : sizeReason(given);
  const chosen: ChosenDefaults = reason === undefined
    ? choosePreset(device, given.preset)
    : { preset: "auto", reason, defaults: presetDefaults("nano") };
  return { ...chosen, defaults: defaultsForData(chosen.defaults, given.data) };
}
