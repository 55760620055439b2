import { type ExchangeMs, TensorSum } from "../distributed/tensor_sum.ts";
import type { Transport } from "../distributed/transport.ts";
import type { WireType } from "../distributed/wire.ts";
import { type Arena, arenaRange } from "../kernels/arena.ts";
import type { Program } from "../kernels/program.ts";
import { type Tensor, tensorBytes } from "../kernels/tensor.ts";

/** Groups of gradients that are exchanged, the first while the backward pass still computes the others. */
const GRADIENT_GROUPS = 8;

/** The sum over all ranks of the gradients and losses of a step, between its last micro-batch and its update. */
export class GradientExchange implements Disposable {
  readonly #program: Program;
  readonly #from: number;
  /** The launches of the last micro-batch, after each part of which some gradients are final. */
  readonly #parts: readonly FinalGradients[];
  readonly #sum: TensorSum;

  /**
   * Allocates the host's memory for gradients.
   *
   * @param options.from the first launch of the last micro-batch, and `to` that of the update.
   */
  constructor(
    transport: Transport,
    program: Program,
    { gradients, lossSums, lossScale }: { gradients: Arena; lossSums: Tensor; lossScale: Tensor },
    { wire, from, to }: { wire: WireType; from: number; to: number },
  ) {
    const { device } = program, isRounded = wire === "f16";
    this.#program = program;
    this.#from = from;
    // natively a read-back waits for the whole device
    const groups = device.provider === "dawn" ? GRADIENT_GROUPS : 1;
    this.#parts = isRounded
      ? [{ to, parts: [] }]
      : finalGradients(program, gradients, { from, to, groups });
    this.#sum = new TensorSum(
      device,
      transport,
      this.#parts.map(({ to: end, parts }) => end === to ? [lossSums, ...parts] : parts),
      isRounded ? { tensor: gradients.flat, scale: lossScale } : undefined,
    );
  }

  /** What was rounded away and is not sent yet, without the loss scale; undefined unless gradients travel in f16. */
  get residual(): Float32Array<ArrayBuffer> | undefined {
    return this.#sum.residual;
  }

  /** What the sums took since the last call of this. */
  takeMs(): ExchangeMs {
    return this.#sum.takeMs();
  }

  /** Submits the last micro-batch, and begins to read gradients back as soon as they are final. */
  submit(): void {
    let from = this.#from;
    for (const { to } of this.#parts) {
      this.#program.run({ from, to });
      this.#sum.read();
      from = to;
    }
  }

  /** Replaces gradients and losses by their sums; waits for the device and for the slowest rank. */
  async run(): Promise<void> {
    await this.#sum.run();
  }

  /** Frees the host's memory. */
  [Symbol.dispose](): void {
    this.#sum[Symbol.dispose]();
  }
}

/** Gradients that have their final values after some launches of a program. */
export interface FinalGradients {
  /** The launch before which they are final. */
  readonly to: number;
  /** Parts of the arena that together hold them, with the padding between. */
  readonly parts: readonly Tensor[];
}

/**
 * Divides gradients into groups by the launch that writes them last, the earliest first: a backward pass ends with the
 * first layers. The last group ends with the last launch.
 *
 * @param options.from the first launch and `to` the one after the last of those that write the gradients.
 * @param options.groups number of groups, at most, of about as many bytes each.
 */
export function finalGradients(
  { launches }: Pick<Program, "launches">,
  gradients: Arena,
  { from, to, groups }: { from: number; to: number; groups: number },
): FinalGradients[] {
  const names = [...gradients.tensors.keys()], last = new Map<string, number>();
  for (let i = from; i < to; i++) {
    const written = launches[i]!.tensors.filter(({ isWritten }) => isWritten);
    for (const [name, gradient] of gradients.tensors) {
      if (written.some(({ tensor }) => overlap(tensor, gradient))) last.set(name, i + 1);
    }
  }
  const finalAt = (name: string) => last.get(name) ?? to;
  const most = tensorBytes(gradients.flat) / groups;
  const result: { to: number; names: Set<string>; bytes: number }[] = [];
  for (const name of names.toSorted((a, b) => finalAt(a) - finalAt(b))) {
    let group = result.at(-1);
    if (!group || group.bytes >= most && finalAt(name) > group.to) {
      result.push(group = { to: 0, names: new Set(), bytes: 0 });
    }
    group.to = finalAt(name);
    group.names.add(name);
    group.bytes += tensorBytes(gradients.tensors.get(name)!);
  }
  return result.map((group, i) => ({
    to: i === result.length - 1 ? to : group.to,
    parts: spansOf(names, group.names).map(([first, last]) =>
      arenaRange(gradients, { first, last })
    ),
  }));
}

/** The first and the last name of each span of neighbours that are in a set. */
function spansOf(names: readonly string[], set: ReadonlySet<string>): [string, string][] {
  const spans: [string, string][] = [];
  for (const [i, name] of names.entries()) {
    if (!set.has(name)) continue;
    if (i > 0 && set.has(names[i - 1]!)) spans.at(-1)![1] = name;
    else spans.push([name, name]);
  }
  return spans;
}

function overlap(a: Tensor, b: Tensor): boolean {
  return a.buffer === b.buffer && a.offsetBytes < b.offsetBytes + tensorBytes(b) &&
    b.offsetBytes < a.offsetBytes + tensorBytes(a);
}
