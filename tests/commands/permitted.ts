import process from "node:process";

/** Runs the command that its first argument names, and says at its end which permissions it still has. */
const [name] = process.argv.splice(2, 1);
const states = (["read", "write", "net", "env"] as const).map((name) => {
  const variable = name === "env" ? { variable: "HF_HOME" } : {};
  return [name, { name, ...variable } as Deno.PermissionDescriptor] as const;
});
globalThis.addEventListener("unload", () => {
  const granted = states.filter(([, of]) => Deno.permissions.querySync(of).state === "granted");
  console.error(`permissions: ${granted.map(([name]) => name).join(" ")}`);
});
await import(`../../commands/${name}.ts`);
