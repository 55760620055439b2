import { fstatSync, readSync } from "node:fs";

/**
 * A worker that receives signals, also while the main thread computes. It receives a notice, posts `ready`, and later
 * the first signal. Then it stops listening, so that the system itself ends the process at the next signal, whatever
 * the threads do, and writes the notice to stderr.
 *
 * @module
 */

const scope = self as unknown as {
  postMessage(message: "ready" | Deno.Signal): void;
  onmessage: (event: MessageEvent<string>) => void;
};

/**
 * Milliseconds within which several signals count as one. `deno task` forwards a signal that the process group
 * receives too, and `timeout` sends one to the process and one to its group.
 */
const REPEATED_MS = 100;

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
  scope.postMessage(signal);
  setTimeout(() => {
    for (const listener of listeners) Deno.removeSignalListener(...listener);
    try {
      Deno.stderr.writeSync(new TextEncoder().encode(notice));
    } catch {
      // the pipe is closed; the main thread ends the work nevertheless
    }
  }, REPEATED_MS);
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
  notice = data;
  scope.postMessage("ready");
};
