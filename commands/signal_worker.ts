import { fstatSync, readSync } from "node:fs";
import { type Listening, REPEATED_MS } from "./signals.ts";

/**
 * A worker that receives signals, also while the main thread computes. It receives what to do, posts `ready`, and later
 * the first signal. Then it stops listening, so that the system itself ends the process at the next signal, whatever
 * the threads do, and writes the notice to stderr.
 *
 * @module
 */

const scope = self as unknown as {
  postMessage(message: "ready" | Deno.Signal): void;
  onmessage: (event: MessageEvent<Listening>) => void;
};

const signals: Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK", "SIGHUP"]
  : ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2"]; // mpirun forwards the last one, and sets no time limit
const ignored = isUnderNohup() ? ["SIGHUP"] : [];
const listeners = signals.filter((signal) => !ignored.includes(signal))
  .map((signal) => [signal, () => receive(signal)] as const);

let received = false, notice = "";

function receive(signal: Deno.Signal): void {
  if (received) return;
  received = true;
  setTimeout(() => {
    for (const listener of listeners) Deno.removeSignalListener(...listener);
  }, REPEATED_MS);
  interrupt(signal);
}

/** Reports a signal to the main thread, and the first one to the user: SIGTERM may follow SIGCONT. */
function interrupt(signal: Deno.Signal): void {
  const text = notice;
  notice = "";
  scope.postMessage(signal);
  setTimeout(() => {
    try {
      Deno.stderr.writeSync(new TextEncoder().encode(text));
    } catch {
      // the pipe is closed; the main thread ends the work nevertheless
    }
  }, REPEATED_MS);
}

/** Milliseconds between readings of the clock, and the least gap between two of them that means that this process was stopped. */
const CLOCK_MS = 50, STOPPED_MS = 250;

/**
 * Listens for the SIGCONT that `mpirun` and `srun` send before SIGTERM, which wakes ranks that are stopped. To a rank that
 * was not stopped it means that it must end, under `mpirun` a second or more before SIGTERM.
 */
function listenForLauncher(): void {
  let nowMs = performance.now(), stoppedMs = -Infinity;
  const readClock = () => {
    const beforeMs = nowMs;
    nowMs = performance.now();
    if (nowMs - beforeMs > STOPPED_MS) stoppedMs = nowMs;
  };
  setInterval(readClock, CLOCK_MS);
  Deno.addSignalListener("SIGCONT", () => {
    readClock();
    if (!received && nowMs - stoppedMs > STOPPED_MS) interrupt("SIGTERM");
  });
}

/**
 * Whether `nohup` has replaced the terminal by a file that cannot be read. That it ignores SIGHUP cannot be seen, and
 * `deno task` undoes that.
 */
function isUnderNohup(): boolean {
  if (Deno.build.os === "windows") return false;
  try {
    if (fstatSync(0).isCharacterDevice() && !Deno.stdin.isTerminal()) {
      readSync(0, new Uint8Array(1));
    }
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EBADF";
  }
}

for (const signal of ignored) Deno.addSignalListener(signal as Deno.Signal, () => {});
for (const listener of listeners) Deno.addSignalListener(...listener);
scope.onmessage = ({ data }) => {
  notice = data.notice;
  if (data.isRank) listenForLauncher();
  scope.postMessage("ready");
};
