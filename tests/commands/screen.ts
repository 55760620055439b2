import xterm from "npm:@xterm/headless@6.0.0";
import type { Terminal } from "../../commands/command.ts";

/** A terminal in memory: tests compare what a person would see on it, not the bytes that it was sent. */
export class Screen implements Terminal {
  /** All that was written. */
  written = "";
  readonly #xterm: InstanceType<typeof xterm.Terminal>;

  constructor(columns: number, rows = 24) {
    this.#xterm = new xterm.Terminal({
      cols: columns,
      rows,
      scrollback: 10_000,
      convertEol: true, // as the driver of a terminal does
      allowProposedApi: true,
    });
  }

  write(text: string): void {
    this.written += text;
    this.#xterm.write(text);
  }

  size(): { columns: number; rows: number } {
    return { columns: this.#xterm.cols, rows: this.#xterm.rows };
  }

  /** Shows keys that were pressed, as the driver of a terminal does. */
  async echo(keys: string): Promise<void> {
    await new Promise<void>((done) => this.#xterm.write(keys, done));
  }

  /** Changes the number of columns. Lines that were wrapped are wrapped anew. */
  async resize(columns: number): Promise<void> {
    await this.echo("");
    this.#xterm.resize(columns, this.#xterm.rows);
  }

  /** The lines on the screen and above it, without empty ones at the end: rows that were wrapped are one line. */
  async lines(): Promise<string[]> {
    await this.echo("");
    const { active } = this.#xterm.buffer;
    const lines: string[] = [];
    for (let y = 0; y < active.length; y++) {
      const row = active.getLine(y)!;
      const isContinued = active.getLine(y + 1)?.isWrapped ?? false;
      const text = row.translateToString(!isContinued);
      if (row.isWrapped) lines[lines.length - 1] += text;
      else lines.push(text);
    }
    return lines.slice(0, lines.findLastIndex((line) => line !== "") + 1);
  }
}
