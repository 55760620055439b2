import type { Transport } from "../../distributed/transport.ts";

/** A call of a verb that not all ranks have made yet. */
interface Call {
  readonly given: Map<number, unknown>;
  readonly complete: PromiseWithResolvers<readonly unknown[]>;
}

/**
 * Runs a function on several ranks of this process, which share its device: their transport obeys the same contract as
 * that of MPI, without the start of a process per rank. If the function throws on one rank, the calls of the others
 * throw, too.
 *
 * @returns what the function returns on each rank.
 * @throws what it throws on the first rank that throws.
 */
export async function inProcess<T>(
  size: number,
  run: (transport: Transport) => Promise<T>,
): Promise<T[]> {
  const calls: Call[] = [];
  let failure: { readonly error: unknown } | undefined;
  const transports = Array.from({ length: size }, (_, rank): Transport => {
    let next = 0;
    /** What each rank gives to this call of it, which is number `next` of all ranks. */
    const exchange = async <V>(value: V): Promise<readonly V[]> => {
      if (failure) throw failure.error;
      const { given, complete } = calls[next++] ??= {
        given: new Map(),
        complete: Promise.withResolvers(),
      };
      given.set(rank, value);
      if (given.size === size) {
        complete.resolve(Array.from({ length: size }, (_, r) => given.get(r)));
      }
      return await complete.promise as readonly V[];
    };
    return {
      rank,
      size,
      localRank: rank,
      host: "localhost",
      async sum(values) {
        const all = await exchange(values.slice());
        for (const [i] of values.entries()) {
          values[i] = all.slice(1).reduce(
            (sum, other) => Math.fround(sum + other[i]!),
            all[0]![i]!,
          );
        }
      },
      gather: async (bytes) => (await exchange(bytes.slice())).map((other) => other.slice()),
      alltoall: async (parts) =>
        (await exchange(parts.map((part) => part.slice()))).map((of) => of[rank]!),
      broadcast: async (bytes = new Uint8Array()) => (await exchange(bytes.slice()))[0]!.slice(),
      barrier: async () => void await exchange(undefined),
      watch: (_limitMs, work) => work(),
      leave() {},
      close: async () => void await exchange(undefined),
    };
  });
  const results = await Promise.allSettled(transports.map(async (transport) => {
    try {
      return await run(transport);
    } catch (error) {
      failure ??= { error };
      for (const { complete } of calls) {
        complete.promise.catch(() => {}); // perhaps no rank waits for it
        complete.reject(error);
      }
      throw error;
    }
  }));
  if (failure) throw failure.error;
  return results.map((result) => (result as PromiseFulfilledResult<T>).value);
}
