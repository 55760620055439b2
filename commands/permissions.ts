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
