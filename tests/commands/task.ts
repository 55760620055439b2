import { join } from "node:path";
import { dirname, fromFileUrl } from "../paths.ts";

/** The directory of the project. */
export const root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));

/** The tasks of deno.json. */
export const tasks = JSON.parse(Deno.readTextFileSync(join(root, "deno.json"))).tasks;

/** What a command printed. */
export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a task's command as if stderr were a terminal, on which each update of a bar is drawn. */
export function taskOnTerminal(name: string, args: string[]): Promise<Result> {
  const script = join(root, "tests", "commands", "on_terminal.ts");
  return task(name, [name, ...args], { script, env: { CI: "", TERM: "xterm" } });
}

/** Runs a task's command with exactly the permissions that deno.json gives it. */
export async function task(
  name: string,
  args: string[],
  { input = "", env = {}, cwd = root, script }: {
    input?: string | Uint8Array;
    env?: Record<string, string>;
    cwd?: string;
    /** Another script to run, with the same permissions. */
    script?: string;
  } = {},
): Promise<Result> {
  const words = (tasks[name].command as string).split(" ").slice(1), own = words.pop()!;
  const child = new Deno.Command(Deno.execPath(), {
    args: [...words, script ?? join(root, own), ...args],
    cwd,
    env: { INIT_CWD: "", TOY_COMMAND: "", ...env },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const bytes = typeof input === "string" ? new TextEncoder().encode(input) : input;
  // a command that fails may end before it has read its input
  await ReadableStream.from([bytes]).pipeTo(child.stdin).catch((error) => {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  });
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  // said by the Vulkan loader on machines without a session, and by Deno when its cache is cold
  const noise = /^(error: XDG_RUNTIME_DIR|Download ).*\n/gm;
  return { code, stdout: text(stdout), stderr: text(stderr).replaceAll(noise, "") };
}
