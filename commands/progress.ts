import wrapAnsi from "wrap-ansi";
import type { DataProgress } from "../data/text/documents.ts";
import { printable, terminalText } from "../files/printable.ts";
import { byteCount, duration, inFewDigits } from "../files/units.ts";
import { ERASE, stderrTerminal, type Terminal } from "./command.ts";

/** Milliseconds of work before its progress is shown. */
const PATIENCE_MS = 1000;

/** Milliseconds between lines, if there is no terminal for a bar. */
const LINE_MS = 10_000;

/** Milliseconds between drawings of a bar, at least. */
const DRAW_MS = 100;

/** Characters of the graph in a bar. */
const GRAPH_WIDTH = 12;

/** Turns the wrapping of long lines off and on: a bar is never wrapped, not even during a resize. */
const NO_WRAP = "\x1b[?7l", WRAP = "\x1b[?7h";

/**
 * A bar at the bottom of a terminal. Lines are printed above it.
 *
 * The cursor rests, visible, on the first character of the bar, so that erasing what follows the cursor
 * removes the bar at any width, also after a resize that has wrapped it anew. A bar that is wider than the
 * terminal takes several rows.
 */
export class ProgressBar implements Disposable {
  readonly #terminal: Terminal;
  #text = "";
  #isDrawn = false;
  #isClosed = false;
  #drawnMs = -Infinity;

  constructor(terminal: Terminal = stderrTerminal()) {
    this.#terminal = terminal;
  }

  /** Whether the terminal can show a bar. Without one, `update()` does nothing. */
  get isVisible(): boolean {
    return this.#terminal.size() !== undefined;
  }

  /** Replaces the bar; it is drawn every `DRAW_MS` at most. */
  update(done: number, total: number, report: string): void {
    if (this.#isClosed) return;
    const full = Math.round(GRAPH_WIDTH * Math.min(1, done / total));
    const isNew = this.#text === "";
    this.#text = `${"=".repeat(full).padEnd(GRAPH_WIDTH, "-")} ${terminalText(report)}`;
    if (isNew || performance.now() - this.#drawnMs >= DRAW_MS) this.#draw("");
  }

  /** Prints a line, or several, above the bar. */
  print(line: string): void {
    this.#draw(`${terminalText(line)}\n`);
  }

  /** Removes the bar; `update()` draws it again. */
  clear(): void {
    this.#text = "";
    if (this.#isDrawn) this.#draw("");
  }

  /** Removes the bar for good; lines can still be printed. */
  close(): void {
    this.clear();
    this.#isClosed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Writes a text, and the bar below it, in place of the bar. */
  #draw(above: string): void {
    const erase = this.#isDrawn ? ERASE : "";
    const rows = this.#rows();
    this.#isDrawn = rows.length > 0;
    this.#drawnMs = performance.now();
    const up = rows.length > 1 ? `\x1b[${rows.length - 1}A` : "";
    const bar = this.#isDrawn ? `${NO_WRAP}${rows.join("\n")}${WRAP}${up}\r` : "";
    if (erase || above || bar) this.#terminal.write(erase + above + bar);
  }

  /** The bar in rows that fit on the terminal. */
  #rows(): string[] {
    const size = this.#terminal.size();
    if (!size || this.#text === "") return [];
    return wrapAnsi(this.#text, size.columns, { hard: true }).split("\n").slice(0, size.rows);
  }
}

/** Progress as of work on data, with any verb and any unit. */
type WorkProgress = Omit<DataProgress, "stage" | "counted"> & {
  readonly stage: string;
  readonly counted?: string;
};

/** Displays the progress of work: as a bar on a terminal, otherwise line by line. */
export class ProgressDisplay implements Disposable {
  readonly #bar: ProgressBar;
  #first: WorkProgress | undefined;
  #sinceMs = 0;
  #shownMs = -Infinity;

  constructor(bar: ProgressBar = new ProgressBar()) {
    this.#bar = bar;
  }

  /** What work on data calls: displays its progress, and prints its notices above the bar. */
  readonly callbacks = {
    onProgress: (progress: WorkProgress): void => this.show(progress),
    onNotice: (line: string): void => this.#bar.print(line),
  } as const;

  /** Displays a report; on a terminal it replaces the one before. */
  show(progress: WorkProgress): void {
    const now = performance.now();
    if (progress.stage !== this.#first?.stage || progress.name !== this.#first.name) {
      this.close();
      [this.#first, this.#sinceMs, this.#shownMs] = [progress, now, -Infinity];
    }
    if (now - this.#sinceMs < PATIENCE_MS) return;
    const report = this.#describe(progress);
    if (this.#bar.isVisible) {
      this.#bar.update(progress.doneBytes, progress.totalBytes, report);
    } else if (now - this.#shownMs >= LINE_MS) {
      this.#shownMs = now;
      this.#bar.print(report);
    }
  }

  /** Removes the bar; `show()` displays it again. */
  close(): void {
    this.#bar.clear();
    this.#first = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #describe({ stage, name, counted, doneBytes, totalBytes }: WorkProgress): string {
    const amount = (n: number) =>
      counted ? `${n < 10 ? inFewDigits(n) : Math.round(n)} ${counted}` : byteCount(n);
    const seconds = (performance.now() - this.#sinceMs) / 1000;
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
