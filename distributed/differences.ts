import { fromJsonBytes, toJsonBytes } from "../files/json.ts";
import type { Transport } from "./transport.ts";

/** Ranks that have the same text, which is not that of rank 0. */
export interface Difference {
  /** Their names: `rank 1`, `ranks 2, 3 on two`, with the host if there are several. */
  readonly ranks: string;
  readonly text: string;
}

/** How the texts of all ranks differ from that of rank 0. Every rank calls it, and gets the same. */
export async function differencesOf(
  transport: Transport,
  text: string,
): Promise<{ readonly first: string; readonly others: readonly Difference[] }> {
  const own = toJsonBytes({ text, host: transport.host });
  const all = (await transport.gather(own)).map((bytes) =>
    fromJsonBytes(bytes) as { text: string; host: string }
  );
  const [{ text: first }] = all as [typeof all[number]];
  const hasHosts = new Set(all.map(({ host }) => host)).size > 1;
  const others = Map.groupBy(
    all.keys().filter((rank) => all[rank]!.text !== first),
    (rank) => JSON.stringify(all[rank]!),
  );
  return {
    first,
    others: [...others.values()].map((ranks) => {
      const { text, host } = all[ranks[0]!]!;
      const names = `${ranks.length === 1 ? "rank" : "ranks"} ${ranks.join(", ")}`;
      return { ranks: hasHosts ? `${names} on ${host}` : names, text };
    }),
  };
}
