import process from "node:process";

/**
 * Runs the command that its first argument names as if stderr were a terminal. A tenth of a second passes between two
 * looks at the clock, so that each update of a bar is drawn.
 */
const [name] = process.argv.splice(2, 1);
Object.defineProperty(Deno, "noColor", { value: false });
Deno.stderr.isTerminal = () => true;
Deno.consoleSize = () => ({ columns: 80, rows: 24 });
let ms = 0;
performance.now = () => ms += 100;
await import(`../../commands/${name}.ts`);
