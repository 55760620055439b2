import { taskCommand } from "../files/command_line.ts";
import { DAWN_MEGABYTES, isDawnInstalled } from "../files/packages.ts";
import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { hasMatrices } from "../kernels/matrices.ts";
import { command, output, runCommand, status } from "./command.ts";
import { probeDawn } from "./probe.ts";

/** `dawn:install`: downloads Dawn, and tries it. */
const program = command(
  "dawn:install",
  "Download Dawn, which offers tensor cores with --gpu dawn, into dawn/node_modules, and try it.",
).action(() => runCommand(main));

const DIRECTORY = new URL("../dawn/", import.meta.url);

async function main(): Promise<void> {
  const wasInstalled = isDawnInstalled();
  if (wasInstalled) status("Dawn is installed already");
  else {
    const { download, disk } = DAWN_MEGABYTES;
    status(`downloading Dawn into dawn/node_modules: ${download} MB, and ${disk} MB on the disk`);
    await install();
  }
  const dawn = await probeDawn();
  if ("error" in dawn) {
    output(`Dawn is installed, but does not work here: ${printable(dawn.error)}\n`);
    status(`--gpu native works without it; to see what is missing: ${taskCommand("doctor")}`);
    if (wasInstalled) {
      status(`to install it anew, delete dawn/node_modules, then ${taskCommand("dawn:install")}`);
    }
    return;
  }
  output(
    `Dawn works on ${printable(dawn.adapter)}, ` +
      (hasMatrices(dawn) ? "with tensor cores; to use it: --gpu dawn\n" : "without tensor cores\n"),
  );
}

/**
 * Installs what dawn/deno.lock names. Deno shows its progress on a terminal.
 *
 * @throws {UserError} if that fails.
 */
async function install(): Promise<void> {
  // Deno takes what it finds for whole, though a file may be missing
  await Deno.remove(new URL("node_modules", DIRECTORY), { recursive: true }).catch(() => {});
  const isTerminal = Deno.stderr.isTerminal();
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["install", "--frozen"],
    cwd: DIRECTORY,
    stdout: "null",
    stderr: isTerminal ? "inherit" : "piped",
  }).spawn().output();
  if (code === 0 && isDawnInstalled()) return;
  const said = isTerminal ? "" : new TextDecoder().decode(stderr);
  const [, reason = "the lines above say why"] = /^error: (.*)/m.exec(said) ?? [];
  throw new UserError(`Cannot install Dawn: ${printable(reason)}`, {
    hint: "Check the network; --gpu native works without it",
  });
}

await program.parseAsync();
