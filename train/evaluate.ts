import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import type { BatchesOptions } from "../data/tokens/batches.ts";
import { evaluationBatches } from "../data/tokens/evaluation_batches.ts";
import { IGNORED } from "../files/ignored.ts";
import type { TokenDataset } from "../data/tokens/token_dataset.ts";
import { oneRank, type Transport } from "../distributed/transport.ts";
import { Program } from "../kernels/program.ts";
import { sumForward } from "../kernels/sum/sum.ts";
import { createTensor, download, type Tensor, upload } from "../kernels/tensor.ts";
import { createActivations } from "../model/activations.ts";
import { forward } from "../model/forward_backward.ts";
import { type Gpt, headMatrixOf } from "../model/gpt.ts";
import { headLossForward } from "../model/head.ts";

/** Losses of a model on a text. */
export interface Evaluation {
  /** Mean loss in nats per token. */
  loss: number;
  /** exp(loss): the number of equally likely tokens that would give the same loss. */
  perplexity: number;
  /** Bits per byte of UTF-8 text, comparable between tokenizers. */
  bitsPerByte: number;
  /** Tokens predicted. */
  tokens: number;
}

/** Sizes of an evaluation. */
export interface EvaluatorOptions {
  batchSize: number;
  sequenceLength: number;
  /** Tokens to evaluate at most, from the beginning of the text; rounded up to whole batches. */
  maxTokens?: number;
  /** The transport to ranks that hold the same model and text, and divide the batches among them. */
  transport?: Transport;
}

/** Milliseconds between waits for the device. */
const WAIT_MS = 2000;

/** Batches of each rank between which it learns from rank 0 whether to continue. */
const BATCHES_PER_AGREEMENT = 16;

/** Sums that the device stores until they are read back together, at most. */
const MOST_SUMS = 1024;

/**
 * The sum of a tensor over many runs of a program, without a wait per run: every run writes the sum of its tensor, and
 * the host adds these sums in f64. A single sum in f32 would stop growing: after half a billion tokens it was 17 % too
 * small.
 */
export class RunningSum {
  #total = 0;
  #waiting = 0; // sums on the device that are not in the total yet
  readonly #program: Program;
  readonly #place: Tensor;
  readonly #sums: Tensor;

  /**
   * Records the sum of x behind the launches that the program has.
   *
   * @param x f32 [N]
   */
  constructor(program: Program, x: Tensor) {
    this.#program = program;
    this.#place = createTensor(program.device, "place", { shape: [1], dtype: "u32" });
    this.#sums = createTensor(program.device, "sums", { shape: [MOST_SUMS], dtype: "f32" });
    sumForward(program, { x, place: this.#place }, { y: this.#sums });
  }

  /** Sets the total to 0. */
  reset(): void {
    this.#total = this.#waiting = 0;
  }

  /** Submits the program once; waits for the device only if it cannot store another sum. */
  async run(): Promise<void> {
    if (this.#waiting === MOST_SUMS) await this.total();
    await this.#program.compiling();
    upload(this.#program.device, this.#place, [this.#waiting]);
    this.#program.run();
    this.#waiting++;
  }

  /** Waits for the device and returns the sum of x over all runs since the last `reset()`. */
  async total(): Promise<number> {
    const [sums] = await download(this.#program.device, this.#sums);
    for (let i = 0; i < this.#waiting; i++) this.#total += sums![i]!;
    this.#waiting = 0;
    return this.#total;
  }

  /** Frees its tensors on the device. */
  destroy(): void {
    for (const { buffer } of [this.#place, this.#sums]) buffer.destroy();
  }
}

/** An evaluation that is recorded once, and repeated during the training. */
export interface Evaluator {
  /** The launches for one batch. */
  readonly program: Program;
  /**
   * Evaluates the model on the text; waits for the device. On several ranks all call it, and the signal of rank 0 ends it
   * on all of them: the others then return the loss of a part of the text.
   *
   * @param onProgress is called every few seconds with the number of tokens predicted.
   * @throws the reason of `signal`, soon after it aborts.
   */
  run(
    options?: { onProgress?: (tokens: number) => void; signal?: AbortSignal | undefined },
  ): Promise<Evaluation>;
  /** Frees everything but the model. */
  destroy(): void;
}

/** Records the losses of one batch without dropout, and their sum. */
export function recordEvaluation(
  model: Gpt,
  { batchSize: B, sequenceLength: T, documents = "joined" }:
    & Pick<EvaluatorOptions, "batchSize" | "sequenceLength">
    & Pick<BatchesOptions, "documents">,
): {
  program: Program;
  tokens: Tensor;
  /** Present if documents are apart. */
  positions?: Tensor;
  targets: Tensor;
  losses: RunningSum;
  destroy(): void;
} {
  const { device, config, precision } = model;
  const activations = createActivations(device, config, {
    batch: { batchSize: B, sequenceLength: T },
    precision,
    purpose: "evaluation",
  });
  const tokens = createTensor(device, "tokens", { shape: [B * T], dtype: "u32" });
  const targets = createTensor(device, "targets", { shape: [B * T], dtype: "u32" });
  const positions = documents === "apart"
    ? createTensor(device, "positions", { shape: [B * T], dtype: "u32" })
    : undefined;
  const owned: Tensor[] = [tokens, targets, ...positions ? [positions] : []];

  const program = new Program(device);
  const at = activations.at;
  forward(program, model, { tokens, positions }, activations);
  headLossForward(
    program,
    { x: at("lnf"), ...headMatrixOf(model), targets },
    { logits: at("logits"), losses: at("losses") },
  );
  const losses = new RunningSum(program, at("losses"));
  return {
    program,
    tokens,
    ...(positions ? { positions } : {}),
    targets,
    losses,
    destroy() {
      program.destroy();
      losses.destroy();
      activations.destroy();
      for (const { buffer } of owned) buffer.destroy();
    },
  };
}

/**
 * Records the evaluation of a model on a data set. Every token is predicted once, without dropout;
 * `evaluationBatches()` cuts the data set into rows.
 */
export function createEvaluator(
  model: Gpt,
  tokenizer: Tokenizer,
  dataset: TokenDataset,
  { batchSize: B, sequenceLength: T, maxTokens = Infinity, transport = oneRank }: EvaluatorOptions,
): Evaluator {
  const { device } = model;
  const { program, tokens, positions, targets, losses, destroy } = recordEvaluation(model, {
    batchSize: B,
    sequenceLength: T,
    documents: dataset.answersOf ? "apart" : "joined",
  });
  return {
    program,
    async run({ onProgress = () => {}, signal } = {}) {
      let counted = 0, bytes = 0, waited = performance.now();
      losses.reset();
      const cut = { batchSize: B, contextLength: T, padding: tokenizer.endOfText };
      let index = 0, isInterrupted = false;
      for (const batch of evaluationBatches(dataset, cut)) {
        if (index++ % transport.size === transport.rank) {
          upload(device, tokens, batch.inputs);
          upload(device, targets, batch.targets);
          if (positions) upload(device, positions, batch.positions!);
          await losses.run();
        }
        counted += batch.counted;
        for (const target of batch.targets) {
          if (target !== IGNORED) bytes += tokenizer.byteLength(target);
        }
        if (counted >= maxTokens) break;
        if (transport.size > 1 && index % (transport.size * BATCHES_PER_AGREEMENT) === 0) {
          const [isEnd] = await transport.broadcast(Uint8Array.of(signal?.aborted ? 1 : 0));
          isInterrupted = isEnd === 1;
          if (isInterrupted) break;
        }
        if (performance.now() - waited < WAIT_MS) continue;
        await losses.total(); // without this wait the host would queue batches without limit
        isInterrupted = transport.size === 1 && signal?.aborted === true;
        if (isInterrupted) break;
        onProgress(counted);
        waited = performance.now();
      }
      const own = Float64Array.of(await losses.total());
      const shares = await transport.gather(new Uint8Array(own.buffer));
      if (isInterrupted) signal?.throwIfAborted(); // other ranks have no signal
      const sum = shares.reduce((total, { buffer }) => total + new Float64Array(buffer)[0]!, 0);
      const loss = sum / counted;
      return {
        loss,
        perplexity: Math.exp(loss),
        bitsPerByte: sum / Math.LN2 / bytes,
        tokens: counted,
      };
    },
    destroy,
  };
}
