import { SingleBar } from "cli-progress";
import { printable } from "../files/printable.ts";
import { byteCount, duration } from "../files/units.ts";
import { columns, print, status } from "./command.ts";
import type { DataProgress } from "../data/text/documents.ts";

/** Milliseconds of work before its progress is shown. */
const PATIENCE_MS = 1000;

/** Milliseconds between lines, if there is no terminal for a bar. */
const LINE_MS = 10_000;

/** Displays the progress of work on data: as a bar on a terminal, otherwise line by line. */
export class DataProgressDisplay {
  readonly #terminal: boolean;
  #bar: SingleBar | undefined;
  #first: DataProgress | undefined;
  #since = 0;
  #shown = 0;

  constructor(terminal: boolean = Deno.stderr.isTerminal()) {
    this.#terminal = terminal;
  }

  /** Displays a report; on a terminal it replaces the one before. */
  show(progress: DataProgress): void {
    const now = performance.now();
    if (progress.stage !== this.#first?.stage || progress.name !== this.#first.name) {
      this.close();
      [this.#first, this.#since, this.#shown] = [progress, now, -Infinity];
    }
    if (now - this.#since < PATIENCE_MS) return;
    const { doneBytes, totalBytes } = progress;
    const report = this.#describe(progress);
    if (this.#terminal) {
      if (!this.#bar) {
        this.#bar = makeBar("{bar} {report}");
        this.#bar.start(totalBytes, 0, { report });
      }
      this.#bar.update(Math.min(doneBytes, totalBytes), { report });
    } else if (now - this.#shown >= LINE_MS) {
      this.#shown = now;
      status(report);
    }
  }

  /** Removes the bar. */
  close(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#first = undefined;
  }

  #describe({ stage, name, counted, doneBytes, totalBytes }: DataProgress): string {
    const amount = (n: number) => counted ? `${Math.round(n)} ${counted}` : byteCount(n);
    const seconds = (performance.now() - this.#since) / 1000;
    const bytesPerSecond = (doneBytes - this.#first!.doneBytes) / seconds;
    const left = (totalBytes - doneBytes) / bytesPerSecond;
    const percent = Math.floor(100 * Math.min(1, doneBytes / totalBytes));
    return [
      `${stage} ${printable(name)}: ${percent} % of ${amount(totalBytes)}`,
      `${amount(bytesPerSecond)}/s`,
      ...(Number.isFinite(left) ? [`${duration(Math.max(0, left))} left`] : []),
    ].join(", ");
  }
}

/** The terminal as a Node stream; the one of `node:process` would end the process if it cannot be written. */
const terminal = {
  isTTY: true,
  get columns() {
    return columns();
  },
  write(text: string, done?: () => void): boolean {
    print(text);
    done?.();
    return true;
  },
};

/** A progress bar in the style of all commands, not started. */
export function makeBar(format: string): SingleBar {
  return new SingleBar({
    format,
    stream: terminal as unknown as NodeJS.WritableStream,
    barsize: 12,
    barCompleteChar: "=",
    barIncompleteChar: "-",
    hideCursor: true,
    clearOnComplete: true,
    fps: 5,
    gracefulExit: false,
  });
}
