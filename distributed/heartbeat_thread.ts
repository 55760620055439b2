import { Worker } from "node:worker_threads";
import { sleep } from "../files/sleep.ts";
import {
  createMessage,
  FAILED,
  FORWARD_MS,
  type HeartbeatOptions,
  type Message,
  partnersOf,
  sendMessage,
  SHARED,
} from "./heartbeat.ts";
import type { HeartbeatMessage } from "./heartbeat_worker.ts";
import type { Mpi } from "./libmpi.ts";
import type { Placement } from "./placement.ts";
import type { Transport } from "./transport.ts";

/** The heartbeat of a rank, as its main thread uses it. */
export interface HeartbeatThread extends Pick<Transport, "watch" | "leave"> {
  /** Notes that a call of MPI begins, or returns. */
  note(waiting: 1 | -1): void;
  /** Ends it; resolves when it makes no more calls of MPI. */
  stop(): Promise<void>;
}

/** Milliseconds that a 32-bit integer holds: 24 days. */
const MOST_LIMIT_MS = 2 ** 31;

/**
 * Starts the worker of a rank that has joined the others.
 *
 * @param timeout seconds in which every rank must answer; 0 for no limit.
 */
export function startHeartbeat(
  mpi: Mpi,
  { rank, size, localSize }: Placement,
  timeout: number,
): HeartbeatThread {
  const shared = new Int32Array(new SharedArrayBuffer(12));
  // workers of Node, unlike those of the web, do not keep a program alive, but none starts from a URL of https: itself
  const module = JSON.stringify(new URL("./heartbeat_worker.ts", import.meta.url));
  const worker = new Worker(new URL(`data:text/javascript,import ${encodeURIComponent(module)}`), {
    workerData: {
      rank,
      size,
      timeoutMs: timeout > 0 ? 1000 * timeout : Infinity,
      shared,
      launcher: localSize === undefined ? undefined : Deno.ppid,
      isOneHost: localSize === size,
    } satisfies HeartbeatOptions,
  });
  worker.unref(); // a program that does not close the transport ends nevertheless
  const post = (message: HeartbeatMessage) => worker.postMessage(message);
  const inFlight: Message[] = []; // what the library may still read
  return {
    note(waiting) {
      Atomics.add(shared, SHARED.calls, 1);
      Atomics.add(shared, SHARED.waiting, waiting);
    },
    async watch(limitMs, work) {
      Atomics.store(shared, SHARED.limitMs, limitMs < MOST_LIMIT_MS ? limitMs : 0);
      try {
        return await work();
      } finally {
        Atomics.store(shared, SHARED.limitMs, 0);
      }
    },
    leave(reason) {
      const message = createMessage().fill(FAILED);
      inFlight.push(message);
      // in the name of the worker, which may not have started yet
      for (const other of partnersOf({ rank, size })) sendMessage(mpi, message, other);
      post({ kind: "leave", reason });
      // the launcher ends all ranks when this process ends, and then forwards no more
      globalThis.addEventListener("unload", () => sleep(FORWARD_MS));
    },
    async stop() {
      const closed = new Promise((resolve) => worker.once("message", resolve));
      worker.ref();
      post({ kind: "close" });
      await closed;
      worker.unref();
    },
  };
}
