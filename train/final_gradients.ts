import { type Arena, arenaRange } from "../kernels/arena.ts";
import type { Program } from "../kernels/program.ts";
import { type Tensor, tensorBytes } from "../kernels/tensor.ts";

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
    parts: runsOf(names, group.names).map(([first, last]) =>
      arenaRange(gradients, { first, last })
    ),
  }));
}

/** The first and the last name of each run of neighbours that are in a set. */
function runsOf(names: readonly string[], set: ReadonlySet<string>): [string, string][] {
  const runs: [string, string][] = [];
  for (const [i, name] of names.entries()) {
    if (!set.has(name)) continue;
    if (i > 0 && set.has(names[i - 1]!)) runs.at(-1)![1] = name;
    else runs.push([name, name]);
  }
  return runs;
}

function overlap(a: Tensor, b: Tensor): boolean {
  return a.buffer === b.buffer && a.offsetBytes < b.offsetBytes + tensorBytes(b) &&
    b.offsetBytes < a.offsetBytes + tensorBytes(a);
}
