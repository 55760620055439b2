import { parentPort, workerData } from "node:worker_threads";
import { printable } from "../files/printable.ts";
import { Heartbeat, type HeartbeatOptions, SHARED } from "./heartbeat.ts";
import { openMpiLibrary, openSystemLibrary } from "./libmpi.ts";

/**
 * The worker of a rank, which sends and answers pings, also while the main thread computes or waits, and ends all ranks if
 * one has failed. It posts `closed` once it has stopped.
 *
 * @module
 */

/** What the main thread posts: that the rank leaves in order, or that it has failed, with the reason. */
export type HeartbeatMessage = { readonly kind: "close" } | {
  readonly kind: "leave";
  readonly reason: string;
};

const { rank, size, timeoutMs, shared, launcher, isOneHost } = workerData as HeartbeatOptions;
const mpi = openMpiLibrary();
const system = openSystemLibrary({
  kill: { parameters: ["i32", "i32"], result: "i32" },
  _exit: { parameters: ["i32"], result: "void" },
}).symbols;
const { ompi_mpi_comm_world: world, ompi_mpi_byte: byte } = mpi;

/** Milliseconds between two pings. */
const INTERVAL_MS = Math.min(1000, timeoutMs / 4);

/** Milliseconds for a process to end by itself after its rank has failed. */
const LEAVE_MS = 3000;

/** UTF-16 units of the reason that is printed, at most. */
const LONGEST_REASON = 4000;

/** Milliseconds in which `mpirun` forwards what was written, and in which MPI_Abort must have ended this process. */
const FORWARD_MS = 300, ABORT_MS = 3000;

/** Tag of pings and answers, which nothing else uses, and MPI_ANY_SOURCE. */
const TAG = 1, ANY_SOURCE = -1;

const SIGTERM = 15;

const heartbeat = new Heartbeat({ rank, size, timeoutMs });
const received = new Int32Array(new ArrayBuffer(8)); // calls and waiting, of SHARED
/** What was last sent to each rank, which may still be under way. */
const sent = new Map<number, Int32Array<ArrayBuffer>>();
const request = new Uint8Array(new ArrayBuffer(8));
const flag = new Int32Array(new ArrayBuffer(4)), status = new Int32Array(new ArrayBuffer(24)); // MPI_Status
/** Ranks that have not answered the last ping: they get no other before. */
const unanswered = new Set<number>();
let last = performance.now();

function beat(): void {
  receive();
  if (rank === 0) {
    for (let other = 1; other < size; other++) {
      if (unanswered.has(other)) continue;
      unanswered.add(other);
      send(other);
    }
  }
  // time in which this process was stopped was none in which others were silent
  const now = performance.now(), elapsedMs = Math.min(now - last, 2 * INTERVAL_MS);
  last = now;
  const failure = heartbeat.pass(elapsedMs, {
    calls: Atomics.load(shared, SHARED.calls),
    waiting: Atomics.load(shared, SHARED.waiting),
    limitMs: Atomics.load(shared, SHARED.limitMs),
  });
  if (failure) end(failure.sentence, { isReachable: !failure.isSilent || isOneHost });
}

/** Takes all messages that have arrived; other ranks than rank 0 answer. */
function receive(): void {
  for (;;) {
    flag[0] = 0;
    mpi.MPI_Iprobe(ANY_SOURCE, TAG, world, flag, status);
    if (flag[0] === 0) return;
    mpi.MPI_Recv(received, 8, byte, ANY_SOURCE, TAG, world, status);
    const [source] = status;
    heartbeat.received(source!, { calls: received[0]!, waiting: received[1]! });
    unanswered.delete(source!);
    if (rank > 0) send(source!);
  }
}

/** Sends the own progress, and does not wait: the link may be down. */
function send(to: number): void {
  const message = sent.get(to) ?? new Int32Array(new ArrayBuffer(8));
  sent.set(to, message);
  message[0] = Atomics.load(shared, SHARED.calls);
  message[1] = Atomics.load(shared, SHARED.waiting);
  mpi.MPI_Isend(message, 8, byte, to, TAG, world, request);
  mpi.MPI_Request_free(request);
}

/** Ends all ranks. If some cannot be reached, those of this host and its launcher, which would wait for them. */
function end(sentence: string, { isReachable }: { isReachable: boolean }): void {
  clearInterval(timer);
  const own = rank > 0 ? `rank ${rank}: ` : "";
  Deno.stderr.writeSync(new TextEncoder().encode(`Error: ${own}${sentence}\n`));
  sleep(FORWARD_MS);
  if (isReachable || launcher === undefined) {
    mpi.MPI_Abort(world, 1);
    setTimeout(() => system._exit(1), ABORT_MS);
    return;
  }
  for (let i = 0; i < 2 && Deno.ppid === launcher; i++) { // as Ctrl-C, and Ctrl-C again
    system.kill(launcher, SIGTERM);
    sleep(FORWARD_MS);
  }
  system._exit(1);
}

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

const timer = setInterval(beat, INTERVAL_MS);
parentPort!.on("message", (message: HeartbeatMessage) => {
  if (message.kind === "leave") {
    const reason = printable(message.reason.split("\n")[0]!, LONGEST_REASON);
    const sentence = `Cannot let the other ranks wait as this one has failed: ${reason}`;
    setTimeout(() => end(sentence, { isReachable: true }), LEAVE_MS);
    return;
  }
  clearInterval(timer);
  parentPort!.postMessage("closed");
});
