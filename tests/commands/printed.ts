import { command, output, runCommand, status } from "../../commands/command.ts";
import { UserError } from "../../files/user_error.ts";

// a child of command_test.ts: prints what files and models may hold, or fails
const program = command("printed", "Print.").argument("[failure]").action((failure) =>
  runCommand(() => {
    if (failure === "typo") {
      const options: { data?: string[] } = {};
      output(options.data![0]!);
    }
    if (failure === "hint") {
      throw new UserError("Cannot print as it must be text: it is not", { hint: "Choose a text" });
    }
    status("a \x1b[31mline");
    output("a\x1b[2J text\n");
    throw new UserError(`bad \x1b]0;\x07 ${"name".repeat(2000)}`);
  })
);
await program.parseAsync();
