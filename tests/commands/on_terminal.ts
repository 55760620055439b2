import process from "node:process";

/**
 * A script that runs the command which its first argument names as if stderr were a terminal. Each reading of the clock
 * advances it by a tenth of a second, so that each update of a bar is drawn.
 *
 * @module
 */

const [name] = process.argv.splice(2, 1);
Object.defineProperty(Deno, "noColor", { value: false });
Deno.stderr.isTerminal = () => true;
Deno.consoleSize = () => ({ columns: 80, rows: 24 });
let ms = 0;
performance.now = () => ms += 100;
await import(`../../commands/${name}.ts`);
