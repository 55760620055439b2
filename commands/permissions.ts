import { UserError } from "../files/user_error.ts";

/**
 * Permissions, which a command gives back as soon as it no longer needs them: code that runs after that, also of
 * packages, does not have them either.
 *
 * @module
 */

/** Permissions that only the hub needs: for the network, and for the variables that name the hub and its cache. */
export const HUB = ["net", "env"] as const;

/** Gives permissions back for good. */
export function giveBack(...names: readonly Deno.PermissionName[]): void {
  for (const name of names) Deno.permissions.revokeSync({ name } as Deno.PermissionDescriptor);
}

/** Whether one of these names is that of a file or model of the hub. */
export function namesHub(...names: readonly string[]): boolean {
  return names.some((name) => /^(hf:|tinystories(@|$))/.test(name));
}

/** A user's mistake in place of Deno's refusal: a task with other permissions, or another path, avoids it. */
export function permissionError({ message }: Deno.errors.NotCapable): UserError {
  const task = /([^/]+?)(\/main)?\.ts$/.exec(Deno.mainModule)?.[1] ?? "run";
  const [, access = "more", path] = /^Requires (\w+) access(?: to (".*"))?/.exec(message) ?? [];
  if (access === "all") { // Deno requires --allow-all, which no task has, for some paths of the system
    return new UserError(
      `Cannot ${task} as no file in /dev, /proc or /sys may be used: current path is ${path}`,
      { hint: "Choose another path, such as that of a copy" },
    );
  }
  return new UserError(`Cannot ${task} as it needs ${access} access: ${message.split(",")[0]}`, {
    hint: `The task that has it: deno task ${task}${access === "ffi" ? ":ffi" : ""}`,
  });
}
