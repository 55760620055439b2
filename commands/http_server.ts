import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";

/**
 * Waits until a server ends.
 *
 * @throws {UserError} if the system lets it accept no more connections, after which `Deno.serve()` listens no longer.
 */
export async function untilEnd({ finished }: Pick<Deno.HttpServer, "finished">): Promise<void> {
  try {
    await finished;
  } catch (error) {
    if (!(error instanceof Deno.errors.Http)) throw error;
    throw new UserError(
      `Cannot serve any longer as the system accepts no more connections: ${
        printable(error.message.replace(/^Error: /, ""))
      }`,
      { hint: "Allow more open files (ulimit -n), or limit the connections by a proxy in front" },
    );
  }
}
