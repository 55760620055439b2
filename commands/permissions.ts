import manifest from "../deno.json" with { type: "json" };
import { HUB_VARIABLES } from "../data/hub/request.ts";
import { taskCommand } from "../files/command_line.ts";
import { UserError } from "../files/user_error.ts";

/**
 * Permissions, which a command gives back as soon as it no longer needs them: code that runs after that, also of
 * packages, does not have them either.
 *
 * @module
 */

/** Permissions that only the hub needs: for the network, and for the variables that name the hub and its cache. */
export const HUB = ["net", "env"] as const;

/** Gives permissions back for good; of the environment, those for the variables of the hub. */
export function giveBack(...names: readonly Deno.PermissionName[]): void {
  const descriptors = names.flatMap((name): object[] =>
    name === "env" ? HUB_VARIABLES.map((variable) => ({ name, variable })) : [{ name }]
  );
  for (const descriptor of descriptors) {
    Deno.permissions.revokeSync(descriptor as Deno.PermissionDescriptor);
  }
}

/** Whether one of these names is that of a file or model of the hub. */
export function namesHub(...names: readonly string[]): boolean {
  return names.some((name) => /^(hf:|tinystories(@|$))/.test(name));
}

/** The task that runs a module, without the permission to load native code if there is one. */
export function taskOf(module: string): string | undefined {
  const tasks = Object.entries<{ command: string }>(manifest.tasks);
  return tasks.find(([, { command }]) => module.endsWith(`/${command.split(" ").at(-1)}`))?.[0];
}

/** A user's mistake in place of Deno's refusal: a task with other permissions, or another path, avoids it. */
export function permissionError({ message }: Deno.errors.NotCapable): UserError {
  const task = taskOf(Deno.mainModule) ?? "run";
  const [, access = "more", path] = /^Requires (\w+) access(?: to (".*"))?/.exec(message) ?? [];
  if (access === "all") { // Deno requires --allow-all, which no task has, for some paths of the system
    return new UserError(
      `Cannot use ${path} as a path must not be in /dev, /proc or /sys`,
      { hint: "Choose another path, such as that of a copy" },
    );
  }
  if (access === "ffi") {
    return new UserError("Cannot use Dawn as that needs permission to load native code", {
      hint: `The task that has it: ${taskCommand(`${task}:ffi`)}; --gpu native needs none`,
    });
  }
  return new UserError(`Cannot continue as that needs ${access} access: ${message.split(",")[0]}`, {
    hint: `The task that has it: ${taskCommand(task)}`,
  });
}
