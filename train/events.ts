import type { DataProgress } from "../data/text/documents.ts";
import type { Evaluation } from "./evaluate.ts";
import type { ParameterHistogram } from "./histograms.ts";
import type { TrainingMemory } from "./limits.ts";
import type { ResolvedOptions } from "./options.ts";

/** What `train()` reports while it works. */
export type TrainEvent =
  | { kind: "notice"; message: string }
  | ({ kind: "preparing" } & DataProgress)
  | {
    kind: "start";
    /** The step after which a resumed run continues. */
    resumedFrom?: number;
    /** Steps of the whole run. */
    steps: number;
    /** Passes over the training text that these steps make. */
    epochs: number;
    options: ResolvedOptions;
    device: string;
    parameters: number;
    /** Parameters that are not frozen. */
    trainedParameters: number;
    corpus: {
      name: string;
      vocabularySize: number;
      /** Documents of the training text, with those that are held out. */
      documents: number;
      trainingTokens: number;
      validationTokens: number;
      /** Of conversations: how many of the training tokens are in answers, which alone are targets. */
      answerTokens?: number;
      /** Whether the data set has its own validation text; otherwise documents are held out. */
      ownValidation: boolean;
      /** Whether the tokens were found in the cache. */
      cached: boolean;
      entropyPerToken?: number;
    };
  }
  /** The fastest kernels are being found: the candidates for `done` of `of` kinds of work are compiled. */
  | { kind: "tuning"; done: number; of: number }
  | {
    kind: "step";
    step: number;
    /** Steps of the whole run. */
    steps: number;
    /** Passes over the training text up to the end of this step. */
    epoch: number;
    /**
     * Mean loss in nats per token. If ranks exchange weights in place of gradients, it is that of rank 0, as are
     * gradient, loss scale and skipped steps.
     */
    loss: number;
    learningRate: number;
    /** Muon's; absent without Muon. */
    muonLearningRate?: number;
    /** Before clipping. */
    gradientNorm: number;
    lossScale: number;
    /** Steps of the run that were skipped, as their gradient was not finite. */
    skipped: number;
    /** Absent for the first step, whose time is mostly compilation. */
    tokensPerSecond?: number;
    /** Absent if `tokensPerSecond` is. */
    secondsLeft?: number;
    /** Milliseconds in which the host made and uploaded the batches; the device may have worked meanwhile. */
    dataMs: number;
    /**
     * The share of the time in which gradients or weights, once computed, were copied to the host, added up over all ranks
     * and uploaded, with the wait for slower ranks. Absent on one rank, and if `tokensPerSecond` is.
     */
    exchangeShare?: number;
  }
  | ({
    kind: "evaluation";
    step: number;
    /** Passes over the training text up to this step. */
    epoch: number;
    entropyPerToken?: number;
    best: boolean;
  } & Evaluation)
  | ({ kind: "histogram"; step: number } & ParameterHistogram)
  | { kind: "sample"; step: number; prompt: string; text: string }
  /** What a check of the losses says about the run; `name` is what it is about, as one word. */
  | { kind: "warning"; step: number; name: string; message: string }
  /** What the training of a dry run would need. */
  | ({ kind: "estimate" } & Estimate)
  /** How long it would take; ends a dry run, unless a signal does or no steps remain. */
  | ({ kind: "time" } & EstimatedTime)
  | { kind: "checkpoint"; step: number; path: string }
  | {
    kind: "end";
    /** `patience`: the last evaluations found no better validation loss. */
    reason: "steps" | "epochs" | "patience" | "interrupted";
    step: number;
    /** The newest checkpoint. */
    path: string;
    /** A prompt that fits the text of the training, as those of its samples do. */
    prompt: string;
    /** The checkpoint with the best validation loss, if there is one. */
    best?: string;
    /** Time since the start, and of the steps before a resume; `--minutes` limits it. */
    seconds: number;
    /** Tokens trained on, those before a resume included. */
    tokens: number;
    /** Operations of these, see `costOf()`. */
    flops: number;
    /** Validation loss in nats per token of the run's last evaluation; absent if there was none. */
    loss?: number;
    /** The same in bits per byte. */
    bitsPerByte?: number;
  };

/** What a training needs. */
export interface Estimate {
  /** Bytes on the device, exact. */
  readonly memory: TrainingMemory;
  /** Floating-point operations, see `costOf()`. */
  readonly flops: {
    /** Of one token. */
    readonly perToken: number;
    /** Of one step. */
    readonly perStep: number;
    /** Of all steps that remain. */
    readonly total: number;
  };
  /** Files of the run directory and of the cache. */
  readonly disk: {
    /** Bytes of one checkpoint, at most. */
    readonly checkpointBytes: number;
    /** Whole checkpoints that the run directory holds at the end, at most. */
    readonly checkpoints: number;
    /** Bytes of a checkpoint that holds only weights, at most. */
    readonly weightsOnlyBytes: number;
    /** Checkpoints that hold only weights at the end, at most. */
    readonly weightsOnlyCheckpoints: number;
    /** Bytes of the token files. */
    readonly tokenBytes: number;
    /** Whether the token files exist already. */
    readonly hasTokens: boolean;
  };
}

/** Time of the steps alone, without evaluations, samples and checkpoints. */
export interface EstimatedTime {
  /** Mean of the steps that were timed. */
  readonly secondsPerStep: number;
  /** Steps that were timed. */
  readonly timedSteps: number;
  /** Steps that remain. */
  readonly steps: number;
  /** Time of these. */
  readonly seconds: number;
}

/** Functions that work on models and data calls with its reports, and a signal that ends the work. */
export interface Callbacks {
  onProgress: (progress: DataProgress) => void;
  onNotice: (message: string) => void;
  signal: AbortSignal;
}

/** A sentence for people. */
export function notice(message: string): TrainEvent {
  return { kind: "notice", message };
}

/** Sentences for people, those of them that there are. */
export function* notices(...sentences: readonly (string | undefined)[]): Generator<TrainEvent> {
  for (const message of sentences) if (message !== undefined) yield notice(message);
}

/** Yields the notices of a run directory, and removes them there. */
export function noticesOf({ notices: sentences }: { notices: string[] }): Generator<TrainEvent> {
  return notices(...sentences.splice(0));
}

/** Turns of the event loop after which a message of another thread has arrived: the second one, with Deno 2.9. */
const TURNS = 4;

/**
 * Whether a signal has aborted, also while this thread was busy, such as with compiling kernels: what the worker that
 * listens to the system's signals has sent arrives only while this thread waits.
 */
export async function hasAborted(signal: AbortSignal | undefined): Promise<boolean> {
  for (let turn = 0; turn < TURNS && signal && !signal.aborted; turn++) {
    await new Promise((resolve) => setTimeout(resolve));
  }
  return signal?.aborted === true;
}

/** Does some work and yields its reports. The work is aborted if the reader stops. */
export async function* reporting<T>(
  work: (callbacks: Callbacks) => Promise<T>,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, T> {
  const events: TrainEvent[] = [];
  const abandoned = new AbortController();
  let wake = () => {}, done = false;
  const report = (event: TrainEvent) => {
    events.push(event);
    wake();
  };
  const result = work({
    onProgress: (progress) => report({ kind: "preparing", ...progress }),
    onNotice: (message) => report(notice(message)),
    signal: AbortSignal.any([abandoned.signal, ...(signal ? [signal] : [])]),
  });
  const ended = result.catch(() => {}).then(() => {
    done = true;
    wake();
  });
  try {
    while (!done || events.length > 0) {
      const news = new Promise<void>((resolve) => wake = resolve);
      if (events.length === 0) await news;
      yield* events.splice(0);
    }
    return await result;
  } finally {
    abandoned.abort();
    await ended;
  }
}
