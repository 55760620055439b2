import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { CommonError } from "../files/user_error.ts";
import { differencesOf } from "./differences.ts";
import type { Transport } from "./transport.ts";

/**
 * Makes sure that all ranks run the same code: they rely on the same order of exchanges, and on the same numbers, which
 * may differ between versions of Deno, too.
 *
 * @throws {CommonError} naming the ranks that differ from rank 0.
 */
export async function checkSameCode(transport: Transport, code = codeOf()): Promise<void> {
  const { first, others } = await differencesOf(transport, code);
  if (others.length === 0) return;
  throw new CommonError(
    `Cannot train together as all ranks must run the same code: rank 0 runs ${first}, ` +
      others.map(({ ranks, text }) => `${ranks} ${text}`).join(", "),
    { hint: "Copy the project from the host of rank 0 to the others, and install its Deno there" },
  );
}

/** Folders of the sources from which a training is made. */
const FOLDERS = ["data", "distributed", "files", "generate", "kernels", "model", "train"] as const;

/** What decides the results of this process, beside its device. */
function codeOf(): string {
  return `${describeSources()} with Deno ${Deno.version.deno}`;
}

/** A part of the hash of all sources; if they come from a server, their address, which has the version. */
function describeSources(): string {
  const project = new URL("../", import.meta.url);
  if (project.protocol !== "file:") return project.href;
  const { state } = Deno.permissions.querySync({ name: "read", path: project });
  if (state !== "granted") return "unknown sources";
  const hash = createHash("sha256");
  for (const folder of FOLDERS) {
    const directory = new URL(`${folder}/`, project);
    const names = readdirSync(directory, { recursive: true, encoding: "utf8" });
    for (const name of names.filter((name) => /\.(ts|wgsl)$/.test(name)).sort()) {
      hash.update(`${folder}/${name}\0`).update(readFileSync(new URL(name, directory)));
    }
  }
  hash.update(readFileSync(new URL("deno.lock", project)));
  return `sources ${hash.digest("hex").slice(0, 8)}`;
}
