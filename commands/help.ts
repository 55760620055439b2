import type { Command } from "@commander-js/extra-typings";
import manifest from "../deno.json" with { type: "json" };
import { taskCommand } from "../files/command_line.ts";
import { command, endHelp, output } from "./command.ts";

/**
 * `help`: lists the commands, and suggests one for a mistyped name. The tasks `NAME:ffi` have one line together.
 */
const tool = taskCommand("help").replace(/ help$/, "");
const program: Command = command(
  "help",
  "Train a small language model, and generate text with it.",
)
  .name(tool)
  .usage("COMMAND [options]")
  .version(`toy-transformer ${manifest.version}, Deno ${Deno.version.deno}`)
  .showHelpAfterError(`(${taskCommand("help")} lists all commands)`)
  .helpCommand(false);
endHelp(
  program,
  `Options of a command: ${tool} COMMAND --help\n` +
    "COMMAND:ffi may load Dawn, which --gpu dawn needs: docs/providers.md",
);
for (const [name, { description }] of Object.entries(manifest.tasks)) {
  program.command(name, { hidden: name.endsWith(":ffi") }).description(description)
    .action(() => void output(`${description}.\nIts options: ${tool} ${name} --help\n`));
}

if (Deno.args.length === 0) program.outputHelp();
else await program.parseAsync();
