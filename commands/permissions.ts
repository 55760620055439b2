import { UserError } from "../files/user_error.ts";

/**
 * Permissions that a command gives back as soon as it does not need them: what it loads and runs after that
 * cannot use them either.
 *
 * @module
 */

/** What only the hub needs: the network, and the variables that say where the hub and its cache are. */
export const HUB = ["net", "env"] as const;

/** Gives permissions back for good. */
export function giveBack(...names: readonly Deno.PermissionName[]): void {
  for (const name of names) Deno.permissions.revokeSync({ name } as Deno.PermissionDescriptor);
}

/** Whether one of these names is looked up in the hub. */
export function namesHub(...names: readonly string[]): boolean {
  return names.some((name) => /^(hf:|tinystories(@|$))/.test(name));
}

/** A permission that was not given, as a mistake of whoever started the command: the hint names the task that has it. */
export function permissionError({ message }: Deno.errors.NotCapable): UserError {
  const task = /([^/]+?)(\/main)?\.ts$/.exec(Deno.mainModule)?.[1] ?? "run";
  const [, access = "more"] = /^Requires (\w+) access/.exec(message) ?? [];
  return new UserError(`Cannot ${task} as it needs ${access} access: ${message.split(",")[0]}`, {
    hint: `The task that has it: deno task ${task}${access === "ffi" ? ":ffi" : ""}`,
  });
}
