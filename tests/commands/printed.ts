import { output, run, status } from "../../commands/command.ts";

// a child of command_test.ts: prints what files and models may hold
status("a \x1b[31mline");
await run(() => {
  output("a\x1b[2J text\n");
  return Promise.reject(new Error(`bad \x1b]0;\x07 ${"name".repeat(2000)}`));
});
