import { savedIn } from "./options.ts";
import type { Run } from "./run.ts";
import { hasResiduals } from "./state.ts";

/** Sentences about the ranks of a training, if there are several, or were when it was saved, or they exchange weights. */
export function* noticesOfRanks(
  { options, resumed }: Pick<Run, "options" | "resumed">,
): Generator<string> {
  const { ranks, gradientAccumulation, batchSize, syncEvery } = options;
  const saved = savedIn(resumed?.state ?? { options }), { ranks: before } = saved;
  if (ranks > 1 || before > 1 || syncEvery > 1) {
    yield `${ranks} ${ranks === 1 ? "rank trains" : "ranks train together"}` +
      (before === ranks ? "" : `, in place of ${before} up to now`) +
      `: a step has ${ranks * gradientAccumulation * batchSize} rows` +
      (syncEvery === 1
        ? ""
        : `, and every ${syncEvery} steps ${
          ranks > 1 ? "weights are exchanged" : "an outer step is taken"
        }, by DiLoCo`);
  }
  if (resumed && !hasResiduals(resumed.state, options)) {
    if (ranks > 1 && options.wire === "f16") {
      yield "the error feedback of --wire f16 begins anew, as the checkpoint has none of these ranks";
    } else if (before > 1 && saved.wire === "f16") {
      yield "what --wire f16 has rounded away, and not sent yet, is left out";
    }
  }
  if (saved.syncEvery > 1 && syncEvery === 1) {
    yield "the momentum of the outer optimizer is left out";
  }
  if (!resumed || saved.syncEvery === 1) return; // all ranks have the same optimizer
  const has = 1 + (resumed.state.otherRanks?.length ?? 0), uses = syncEvery === 1 ? 1 : ranks;
  const named = (first: number, end: number) =>
    end - first === 1
      ? `rank ${first}`
      : `ranks ${first} ${end - first > 2 ? "to" : "and"} ${end - 1}`;
  if (has < uses) {
    yield `the optimizer of ${named(has, uses)} begins with the state of rank 0's, as the ` +
      "checkpoint has no other";
  }
  if (has > uses) yield `the state of the optimizer of ${named(uses, has)} is left out`;
}
