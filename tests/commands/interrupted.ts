import { listenForInterrupts, output } from "../../commands/command.ts";

// a child of command_test.ts: computes until the system ends it, or waits for a signal; not for ever
const end = performance.now() + 60_000;
const interrupts = await listenForInterrupts("stopping");
output("ready\n");
while (Deno.args[0] === "blocked" && performance.now() < end);
interrupts.signal.addEventListener("abort", () => output("aborted\n"));
setInterval(() => {
  if (interrupts.signal.aborted || performance.now() > end) Deno.exit(interrupts.exitCode);
}, 50);
