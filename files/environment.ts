/**
 * A variable of the environment; undefined if it is not set, is empty, or may not be read. Unlike
 * `Deno.env.get()`, it never asks the user for the permission.
 */
export function environmentVariable(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) || undefined : undefined;
}
