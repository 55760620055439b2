import { evaluationBatches, IGNORED } from "../data/batches.ts";
import type { TokenizedText } from "../data/token_file.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { Program } from "../kernels/program.ts";
import { sumForward } from "../kernels/sum/sum.ts";
import { createTensor, download, type Tensor, upload } from "../kernels/tensor.ts";
import { createActivations } from "../model/activations.ts";
import { forward, type Gpt, headOf } from "../model/gpt.ts";
import { headLossForward } from "../model/head.ts";

/** How well a model predicts a text. */
export interface Evaluation {
  /** Mean loss in nats per token. */
  loss: number;
  /** exp(loss): among how many tokens the model wavers. */
  perplexity: number;
  /** Bits per byte of UTF-8 text, comparable between tokenizers. */
  bitsPerByte: number;
  /** Tokens predicted. */
  tokens: number;
}

/** What an evaluator needs to know beside model and text. */
export interface EvaluatorOptions {
  batchSize: number;
  sequenceLength: number;
  /** About so many tokens at most are looked at, from the beginning of the text. */
  maxTokens?: number;
}

/** The device is waited for about this often, in milliseconds. */
const WAIT_MS = 2000;

/** A recorded evaluation that can be repeated while the model trains. */
export interface Evaluator {
  /**
   * Runs over the text; waits for the device.
   *
   * @param onProgress hears now and then how many tokens are predicted.
   */
  run(onProgress?: (tokens: number) => void): Promise<Evaluation>;
  /** Frees everything but the model. */
  destroy(): void;
}

/**
 * Records the evaluation of a model on a text: every token is predicted once, without dropout; see
 * `evaluationBatches()` for how the text is cut.
 */
export function createEvaluator(
  model: Gpt,
  tokenizer: Tokenizer,
  text: TokenizedText,
  { batchSize: B, sequenceLength: T, maxTokens = Infinity }: EvaluatorOptions,
): Evaluator {
  const { device, config, precision } = model;
  const activations = createActivations(device, config, {
    batch: { batchSize: B, sequenceLength: T },
    precision,
    training: false,
  });
  const tokens = createTensor(device, "tokens", { shape: [B * T], dtype: "u32" });
  const targets = createTensor(device, "targets", { shape: [B * T], dtype: "u32" });
  const lossSum = createTensor(device, "lossSum", { shape: [1], dtype: "f32" });
  const owned: Tensor[] = [tokens, targets, lossSum];

  const program = new Program(device);
  const at = activations.at;
  forward(program, model, { tokens }, activations);
  headLossForward(
    program,
    { x: at("lnf"), weight: headOf(model), targets },
    { logits: at("logits"), losses: at("losses") },
  );
  sumForward(program, { x: at("losses") }, { y: lossSum }, { accumulate: true });

  return {
    async run(onProgress = () => {}) {
      let counted = 0, bytes = 0, waited = performance.now();
      upload(device, lossSum, [0]);
      const cut = { batchSize: B, contextLength: T, padding: tokenizer.endOfText };
      for (const batch of evaluationBatches(text, cut)) {
        upload(device, tokens, batch.inputs);
        upload(device, targets, batch.targets);
        program.run();
        counted += batch.counted;
        for (const target of batch.targets) {
          if (target !== IGNORED) bytes += tokenizer.byteLength(target);
        }
        if (counted >= maxTokens) break;
        if (performance.now() - waited < WAIT_MS) continue;
        await download(device, lossSum); // or the host would run ahead without end
        onProgress(counted);
        waited = performance.now();
      }
      const [sum] = await download(device, lossSum);
      const loss = sum![0]! / counted;
      return {
        loss,
        perplexity: Math.exp(loss),
        bitsPerByte: sum![0]! / Math.LN2 / bytes,
        tokens: counted,
      };
    },
    destroy() {
      program.destroy();
      activations.destroy();
      for (const { buffer } of owned) buffer.destroy();
    },
  };
}
