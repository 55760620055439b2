import { parentPort, workerData } from "node:worker_threads";
import { printable } from "../files/printable.ts";
import { sleep } from "../files/sleep.ts";
import {
  createMessage,
  FAILED,
  type Failure,
  FORWARD_MS,
  Heartbeat,
  type HeartbeatOptions,
  type Message,
  MESSAGE_BYTES,
  partnersOf,
  progressOf,
  sendMessage,
  SHARED,
  TAG,
} from "./heartbeat.ts";
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

/** Milliseconds in which the launcher ends the ranks by itself by default, and between signals to it after that. */
const PATIENT_MS = 2000, HURRY_MS = 10;

/** Milliseconds in which a launcher that is hurried up must have ended this process: daemons follow after `mpirun`. */
const HURRIED_MS = 10_000;

/** MPI_ANY_SOURCE. */
const ANY_SOURCE = -1;

const SIGTERM = 15, SIGCHLD = Deno.build.os === "darwin" ? 20 : 17;

/** What a rank sends in place of its progress once all must end. */
const HAS_FAILED = { calls: FAILED, waiting: 0 };

const heartbeat = new Heartbeat({ rank, size, timeoutMs });
const received = createMessage();
/** What was last sent to each rank, which may still be under way. */
const sent = new Map<number, Message>();
const flag = new Int32Array(new ArrayBuffer(4)), status = new Int32Array(new ArrayBuffer(24)); // MPI_Status
/** Ranks that have not answered the last ping: they get no other before. */
const unanswered = new Set<number>();
/** Whether this rank itself has failed. */
let hasFailed = false;
/** Whether it is done and waits for its launcher: `mpirun` ends the ranks of its daemons later than those beside it. */
let isClosed = false;
let last = performance.now();

function beat(): void {
  receive();
  for (const other of rank === 0 ? partnersOf({ rank, size }) : []) {
    if (unanswered.has(other)) continue;
    unanswered.add(other);
    send(other);
  }
  // time in which this process was stopped, or had no core, was none in which others were silent
  const now = performance.now(), elapsedMs = Math.min(now - last, INTERVAL_MS);
  last = now;
  const limitMs = Atomics.load(shared, SHARED.limitMs);
  const failure = heartbeat.pass(elapsedMs, { ...progressOf(shared), limitMs });
  if (failure) end(failure);
}

/** Takes all messages that have arrived; other ranks than rank 0 answer. */
function receive(): void {
  for (;;) {
    flag[0] = 0;
    mpi.MPI_Iprobe(ANY_SOURCE, TAG, world, flag, status);
    if (flag[0] === 0) return;
    mpi.MPI_Recv(received, MESSAGE_BYTES, byte, ANY_SOURCE, TAG, world, status);
    const [source] = status;
    if (received[0] === FAILED) return followFailed(source!);
    heartbeat.received(source!, { calls: received[0]!, waiting: received[1]! });
    unanswered.delete(source!);
    if (rank > 0) send(source!);
  }
}

/** Sends the own progress, or that a rank has failed. */
function send(to: number, { calls, waiting } = progressOf(shared)): void {
  const message = sent.get(to) ?? createMessage();
  sent.set(to, message);
  message.set([calls, waiting]);
  sendMessage(mpi, message, to);
}

/** Ends this rank after another one has failed, which says why. */
function followFailed(failed: number): void {
  if (hasFailed) return;
  clearInterval(timer);
  for (const other of partnersOf({ rank, size })) if (other !== failed) send(other, HAS_FAILED);
  sleep(PATIENT_MS);
  hurryLauncher();
  system._exit(1);
}

/** Ends all ranks. If some cannot be reached, those of this host and its launcher, which would wait for them. */
function end({ sentence, launcherState }: Failure): void {
  clearInterval(timer);
  const own = rank > 0 ? `rank ${rank}: ` : "";
  Deno.stderr.writeSync(new TextEncoder().encode(`Error: ${own}${sentence}\n`));
  for (const other of partnersOf({ rank, size })) send(other, HAS_FAILED);
  sleep(FORWARD_MS);
  if (launcherState === "unreachable" && !isOneHost && launcher !== undefined) {
    for (let i = 0; i < 2; i++) { // as Ctrl-C, and Ctrl-C again
      signalLauncher(SIGTERM);
      sleep(FORWARD_MS);
    }
  } else {
    if (launcherState !== "ending") {
      mpi.MPI_Abort(world, 1);
      sleep(PATIENT_MS);
    }
    hurryLauncher();
  }
  system._exit(1);
}

/**
 * Hurries the launcher up to end this process. Before `mpirun` sends SIGTERM to ranks, and again before SIGKILL, it sleeps
 * for odls_base_sigkill_timeout, whole seconds, of which every signal takes one away. SIGCHLD makes it look after its
 * ranks, and means nothing else.
 */
function hurryLauncher(ms = HURRIED_MS): void {
  if (launcher === undefined) return;
  Deno.addSignalListener("SIGTERM", () => {}); // to stay up to SIGKILL
  for (let waited = 0; waited < ms; waited += HURRY_MS) {
    signalLauncher(SIGCHLD);
    sleep(HURRY_MS);
  }
}

/** Sends a signal to the launcher, if it still is the parent of this process. */
function signalLauncher(signal: number): void {
  if (launcher !== undefined && Deno.ppid === launcher) system.kill(launcher, signal);
}

const timer = setInterval(beat, INTERVAL_MS);
Deno.addSignalListener("SIGCONT", () => {
  heartbeat.expectEnd();
  if (isClosed) hurryLauncher();
});
parentPort!.on("message", (message: HeartbeatMessage) => {
  if (message.kind === "leave") {
    hasFailed = true;
    const reason = printable(message.reason.split("\n")[0]!, LONGEST_REASON);
    const sentence = `Cannot let the other ranks wait as this one has failed: ${reason}`;
    setTimeout(() => end({ sentence, launcherState: "reachable" }), LEAVE_MS);
    return;
  }
  clearInterval(timer);
  if (heartbeat.expectsEnd) hurryLauncher(PATIENT_MS); // nothing is left to do
  isClosed = true;
  parentPort!.postMessage("closed");
});
