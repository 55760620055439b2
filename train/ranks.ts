import { type Corpus, loadCorpus } from "../data/tokens/corpus.ts";
import { type ChatTemplate, parseTokenizer } from "../data/tokenizer/tokenizer.ts";
import { differencesOf } from "../distributed/differences.ts";
import type { Transport } from "../distributed/transport.ts";
import { environmentVariable } from "../files/environment.ts";
import { fromJsonBytes, toJsonBytes } from "../files/json.ts";
import { printable } from "../files/printable.ts";
import { CommonError, UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import type { Provider } from "../kernels/provider.ts";
import { download, type HostArray, upload } from "../kernels/tensor.ts";
import type { RecomputeMode } from "../model/activations.ts";
import type { GptConfig } from "../model/config.ts";
import type { ResolvedOptions } from "./options.ts";
import { gatherRankStates, residualOf } from "./rank_states.ts";
import {
  createEvaluation,
  createModel,
  createOuterStep,
  createStep,
  type RankTraining,
} from "./rank_training.ts";
import type { Resumed, Run, Workplace } from "./run.ts";
import { hasResiduals, readMoments, readResidual } from "./state.ts";
import { checkSkips } from "./skips.ts";
import { type AnnouncedStep, type Start, StepShare } from "./step_share.ts";
import { REPORT_ROWS, type StepState } from "./step_state.ts";
import { batchesOf, cacheBeside } from "./training_data.ts";
import { choicesOf, tuningOf } from "./tuning.ts";

/**
 * A training on several ranks. Rank 0 decides all: it makes every choice, evaluates, saves, and names each step, in which
 * the others follow it. They read the data themselves, and get all else from rank 0.
 *
 * @module
 */

/** What rank 0 sends to the others before the first step, beside weights and state. */
interface Assignment {
  readonly options: ResolvedOptions;
  readonly config: GptConfig;
  readonly recompute: RecomputeMode;
  readonly start: Start;
  readonly tokenizer: {
    readonly json: string;
    readonly vocabularySize: number;
    readonly endOfTextToken: string;
    readonly chatTemplate: ChatTemplate | undefined;
  };
  readonly tuning: ReturnType<typeof tuningOf>;
  readonly state: StepState;
  /** With DiLoCo, the states of ranks from 1 on in the checkpoint, which rank 0 then reads and broadcasts. */
  readonly otherStates: readonly StepState[];
  /** Whether the checkpoint has residuals of all ranks, which rank 0 broadcasts, too. */
  readonly hasResiduals: boolean;
}

/** Gives the other ranks all that they need; they wait for it in `follow()`. */
export async function assign(
  { options, config, recompute, corpus, device, share, transport, resumed }: Run,
  training: RankTraining,
): Promise<void> {
  const { json, vocabularySize, endOfTextToken, chatTemplate } = corpus.tokenizer;
  const { trainStep, outer } = training;
  const otherStates = outer ? resumed?.state.otherRanks?.slice(0, transport.size - 1) ?? [] : [];
  const assignment: Assignment = {
    options,
    config,
    recompute,
    start: share.start,
    tokenizer: { json, vocabularySize, endOfTextToken, chatTemplate },
    tuning: tuningOf(device),
    state: await trainStep.state(),
    otherStates,
    hasResiduals: resumed !== undefined && hasResiduals(resumed.state, options),
  };
  await transport.broadcast(toJsonBytes(assignment));
  await transport.barrier(); // until other hosts have tokenized their data
  await checkSameData(transport, corpus);
  await shareValues(transport, training, assignment, resumed);
}

/**
 * Gives the other ranks the weights and the optimizer's state of rank 0, and what the checkpoint has of their own state.
 *
 * @param resumed the checkpoint, which rank 0 reads.
 */
async function shareValues(
  transport: Transport,
  training: RankTraining,
  { otherStates, hasResiduals }: Assignment,
  resumed?: Resumed,
): Promise<void> {
  const { gpt: { device, parameters, copies }, trainStep, outer } = training;
  const { rank: own, size } = transport, state = trainStep.optimizer.state;
  const broadcast = async (values: HostArray | undefined) =>
    (await transport.broadcast(values && new Uint8Array(values.buffer))).buffer;
  const tensors = [parameters, ...(copies ? [copies] : []), ...state.values()]
    .map(({ flat }) => flat).concat(outer ? [outer.momentum] : []);
  for (const tensor of tensors) {
    const buffer = await broadcast(own === 0 ? (await download(device, tensor))[0] : undefined);
    if (own === 0) continue;
    const isU32 = tensor.dtype === "u32";
    upload(device, tensor, isU32 ? new Uint32Array(buffer) : new Float32Array(buffer));
  }
  for (let rank = 1; rank <= otherStates.length; rank++) {
    const moments = resumed && readMoments(resumed.path, trainStep, rank);
    for (const [name, { flat }] of state) {
      const buffer = await broadcast(moments?.get(name));
      if (rank === own) upload(device, flat, new Float32Array(buffer));
    }
  }
  for (let rank = 1; hasResiduals && rank < size; rank++) {
    const buffer = await broadcast(resumed && readResidual(resumed.path, trainStep, rank));
    if (rank === own) residualOf(training)!.set(new Float32Array(buffer));
  }
}

/** The provider of rank 0's device, which the checkpoint may decide, on every rank. */
export async function providerOf(transport: Transport, device?: Device): Promise<Provider> {
  return fromJsonBytes(
    await transport.broadcast(toJsonBytes(device?.provider ?? null)),
  ) as Provider;
}

/**
 * The devices of all ranks, by rank, each with the address of the GPU to which distributed/own_gpu.sh has restricted its
 * process.
 */
export async function devicesOf(transport: Transport, { name }: Device): Promise<string[]> {
  const address = environmentVariable("TOY_GPU_ADDRESS");
  const own = address === undefined ? name : `${name} at ${printable(address)}`;
  return (await transport.gather(toJsonBytes(own))).map((bytes) => fromJsonBytes(bytes) as string);
}

/** A sentence such as `rank 0 computes on NVIDIA H200 at 0000:1b:00.0, ranks 1, 2 on NVIDIA H200 at 0000:43:00.0`. */
export function describeDevices(devices: readonly string[]): string {
  const ranks = Map.groupBy(devices.keys(), (rank) => devices[rank]!);
  if (ranks.size === 1) return `all ranks compute on ${devices[0]}`;
  return [...ranks].map(([device, of], i) =>
    `${of.length === 1 ? "rank" : "ranks"} ${of.join(", ")}` +
    `${i > 0 ? "" : of.length === 1 ? " computes" : " compute"} on ${device}`
  ).join(", ");
}

/** What rank 0 announces to the others, which all ranks then do together, or the end of the training. */
type Announcement = AnnouncedStep | {
  readonly kind: "exchange" | "evaluation" | "save" | "end";
};

/** Announces to the other ranks what comes next. */
export async function announce(transport: Transport, announcement: Announcement): Promise<void> {
  if (transport.size > 1) await transport.broadcast(toJsonBytes(announcement));
}

/**
 * Follows rank 0 through a training, up to its end.
 *
 * @throws {CommonError} if the data of a host differs from that of rank 0.
 */
export async function follow(
  transport: Transport,
  place: Pick<Workplace, "device" | "out" | "hub" | "documents" | "validationDocuments">,
): Promise<void> {
  const { device } = place;
  await devicesOf(transport, device);
  const assignment = fromJsonBytes(await transport.broadcast()) as Assignment;
  const { options, config, recompute, start, state, otherStates, tuning } = assignment;
  using resources = new DisposableStack();
  // the others of a host find the tokens that its first rank has written
  if (transport.localRank > 0) await transport.barrier();
  const corpus = resources.adopt(
    await openCorpus(transport, place, assignment),
    (corpus) => corpus.close(),
  );
  if (transport.localRank === 0) await transport.barrier();
  await checkSameData(transport, corpus);
  const batches = batchesOf(corpus, options);
  const choices = choicesOf({ tuning }, device);
  for (const [key, variant] of choices ?? []) device.choices.set(key, variant);
  const run = { device, options, config, recompute, corpus, transport };
  const gpt = resources.adopt(createModel(run), (gpt) => gpt.destroy());
  const trainStep = resources.use(createStep(run, gpt));
  const outer = resources.use(createOuterStep(run, { gpt, trainStep }));
  const training = { gpt, trainStep, outer };
  await shareValues(transport, training, assignment);
  trainStep.restore(otherStates[transport.rank - 1] ?? state);
  outer?.start();
  const share = new StepShare(transport, batches, start);
  const evaluator = resources.adopt(createEvaluation(run, gpt), (evaluator) => evaluator.destroy());
  let waiting = 0; // steps that the device may not have done yet
  for (;;) {
    const announcement = fromJsonBytes(await transport.broadcast()) as Announcement;
    if (announcement.kind === "end") return;
    if (announcement.kind === "step") {
      await share.submit(training, announcement);
      waiting++;
    } else if (announcement.kind === "exchange") await share.exchange({ gpt, outer: outer! });
    else if (announcement.kind === "save") await gatherRankStates(transport, training);
    else await evaluator.run();
    if (outer && (announcement.kind === "exchange" || waiting === REPORT_ROWS)) {
      checkSkips(await trainStep.state(), options); // as rank 0 does, which this rank may be far behind
      waiting = 0;
    }
  }
}

/** Puts the rank in front of the message of an error: errors are all that ranks beside rank 0 print, if it does not. */
export function withRank(rank: number, error: unknown): unknown {
  if (error instanceof CommonError) return error;
  if (error instanceof UserError) error.precede(`rank ${rank}: `);
  else if (error instanceof DOMException) { // its message cannot be set
    return new Error(`rank ${rank}: ${error.message}`, { cause: error });
  } else if (error instanceof Error) error.message = `rank ${rank}: ${error.message}`;
  return error;
}

/** The corpus of rank 0 on this host, which must have its documents. */
async function openCorpus(
  transport: Transport,
  { out, hub, documents, validationDocuments }: Parameters<typeof follow>[1],
  { options, tokenizer }: Assignment,
): Promise<Corpus> {
  const { data, dataVersion, textField, workers } = options;
  const { json, vocabularySize, endOfTextToken: endOfText, chatTemplate } = tokenizer;
  const parsed = await parseTokenizer(json, "the tokenizer of rank 0", {
    vocabularySize,
    endOfText,
  });
  return await loadCorpus({
    ...hub,
    cacheDirectory: cacheBeside(out),
    readOnly: transport.localRank > 0,
    data: documents ?? data,
    validationData: validationDocuments ?? options.validationData,
    dataVersion,
    textField,
    workers,
    tokenizer: chatTemplate ? { ...parsed, chatTemplate } : parsed,
  });
}

/** Makes sure that all hosts have the documents of rank 0. */
async function checkSameData(transport: Transport, { name, hash }: Corpus): Promise<void> {
  const { others } = await differencesOf(transport, hash);
  if (others.length === 0) return;
  throw new CommonError(
    `Cannot train on ${name} as every host must have the same documents: those of ` +
      `${others.map(({ ranks }) => ranks).join(" and ")} differ from those of rank 0`,
    { hint: "Copy the documents from the host of rank 0 to the others" },
  );
}
