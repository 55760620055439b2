import { Argument } from "@commander-js/extra-typings";
import { existsSync, statSync } from "node:fs";
import { taskCommand } from "../files/command_line.ts";
import { beginningOf, checkReplaceable, replaceText } from "../files/disk.ts";
import { UserError } from "../files/user_error.ts";
import { openDevice } from "../kernels/device.ts";
import { requestAdapter } from "../kernels/provider.ts";
import { createHandler } from "../serve/handler.ts";
import { RunFolders } from "../serve/run_folders.ts";
import { readAll, SAVED_MARK, savedPage } from "../serve/saved_page.ts";
import { command, output, runCommand, status, wholeNumber } from "./command.ts";
import { gpuOption } from "./gpu.ts";
import { untilEnd } from "./http_server.ts";
import { giveBack } from "./permissions.ts";

/** `dashboard`: a page that shows runs while they train, and afterwards. */
const program = command(
  "dashboard",
  "Show runs on a page for the browser: curves, samples, checkpoints.",
)
  .addArgument(
    new Argument("[runs...]", "runs, or folders that hold runs").default(["runs"], "runs"),
  )
  .option(
    "--port <n>",
    `port of the page on 127.0.0.1 (default: the first free one from 4242)`,
    wholeNumber(1, 65535),
  )
  .option("--save <file>", "write the page with the data of the runs as one HTML file, and end")
  .addOption(gpuOption())
  .action((folders, options) => runCommand(() => main(folders, options)));

/** The only address on which the page is served. */
const HOSTNAME = "127.0.0.1";

/** The first port that is tried if none is given, and how many are. */
const FIRST_PORT = 4242, MOST_PORTS = 50;

/** The options that were typed, and defaults. */
type Options = ReturnType<typeof program.opts>;

async function main(folders: readonly string[], options: Options): Promise<void> {
  const { port, save: file, gpu } = options;
  const absent = folders.filter((folder) => !existsSync(folder));
  for (const folder of folders.filter((folder) => !absent.includes(folder))) {
    if (statSync(folder).isDirectory()) continue;
    throw new UserError(`Cannot show ${folder} as it must be a folder that holds runs, or a run`);
  }
  if (file !== undefined) return await save(folders, file);
  giveBack("write");
  for (const folder of absent) {
    status(`no runs in ${folder} yet; to make one: ${taskCommand("train")}`);
  }
  // loads Dawn, if it is chosen, while that is permitted: a device is opened when a page asks for a model
  if (gpu !== "native") await requestAdapter(gpu);
  giveBack("ffi");
  const server = serve(createHandler({ folders, open: () => openDevice({ gpu }) }), port);
  output(`http://${HOSTNAME}:${server.addr.port}/\n`);
  status("the page is for this machine only; Ctrl-C ends it");
  await untilEnd(server);
}

/** Writes the page of all runs to a file. */
async function save(folders: readonly string[], file: string): Promise<void> {
  checkReplaceable(file, {
    flag: "--save",
    kind: "a page that dashboard --save has written",
    isOfKind: (path) => beginningOf(path, 1024).includes(SAVED_MARK),
  });
  const runs = new RunFolders(folders), { length } = runs.rows(), named = folders.join(", ");
  if (length === 0) {
    const reason = folders.some((folder) => existsSync(folder))
      ? "a folder must hold a run: it holds none"
      : "there is no such folder";
    throw new UserError(`Cannot save ${named} as ${reason}`);
  }
  if (length > MOST_SAVED) {
    throw new UserError(
      `Cannot save ${named} as a page has at most ${MOST_SAVED} runs: there are ${length}`,
      { hint: "Name the runs, or a folder with fewer of them" },
    );
  }
  replaceText(file, savedPage(await readAll(runs)));
  status(`saved ${length === 1 ? "1 run" : `${length} runs`} in ${file}`);
}

/** Runs of a saved page, at most: each takes up to 500 kB. */
const MOST_SAVED = 50;

/** Serves on a port, or on the first free one if none is given. */
function serve(
  handler: (request: Request) => Promise<Response>,
  port: number | undefined,
): Deno.HttpServer<Deno.NetAddr> {
  const ports = port === undefined
    ? Array.from({ length: MOST_PORTS }, (_, i) => FIRST_PORT + i)
    : [port];
  for (const port of ports) {
    try {
      return Deno.serve({ hostname: HOSTNAME, port, onListen: () => {} }, handler);
    } catch (error) {
      if (error instanceof Deno.errors.AddrInUse) continue;
      if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
      throw new UserError(`Cannot serve the page on port ${port} as the system refuses it`, {
        hint: "Ports below 1024 need a privilege: choose another --port",
      });
    }
  }
  const tried = port === undefined ? `ports ${ports[0]} to ${ports.at(-1)}` : `port ${port}`;
  throw new UserError(`Cannot serve the page as another program uses ${tried}`, {
    hint: "Choose another --port",
  });
}

await program.parseAsync();
