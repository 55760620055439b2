import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { openTransport } from "../../distributed/open_mpi.ts";
import { placementOf } from "../../distributed/placement.ts";
import { oneRank } from "../../distributed/transport.ts";
import { UserError } from "../../files/user_error.ts";
import { once } from "../once.ts";
import { fromFileUrl } from "../paths.ts";
import { mpirun, withRanks } from "./mpirun.ts";

/** The program that ranks run. */
const PROGRAM = fromFileUrl(new URL("./ranks.ts", import.meta.url));

const place = (environment: Record<string, string>) => placementOf((name) => environment[name]);

Deno.test("placementOf() reads the variables of mpirun, and of srun in a step", () => {
  const mpirun = { OMPI_COMM_WORLD_RANK: "3", OMPI_COMM_WORLD_SIZE: "4" };
  assert.deepEqual(place({ ...mpirun, OMPI_COMM_WORLD_LOCAL_RANK: "1" }), {
    rank: 3,
    size: 4,
    localRank: 1,
  });
  const local = { OMPI_COMM_WORLD_LOCAL_RANK: "1", OMPI_COMM_WORLD_LOCAL_SIZE: "2" };
  assert.deepEqual(place({ ...mpirun, ...local }), {
    rank: 3,
    size: 4,
    localRank: 1,
    localSize: 2,
  });
  const script = { SLURM_PROCID: "0", SLURM_NTASKS: "8", SLURM_LOCALID: "0" };
  assert.equal(place(script), undefined); // the batch script, from which srun starts the ranks
  const step = { SLURM_PROCID: "5", SLURM_STEP_NUM_TASKS: "8", SLURM_LOCALID: "1" };
  assert.deepEqual(place({ ...script, ...step }), { rank: 5, size: 8, localRank: 1 });
  assert.equal(place({}), undefined);
});

Deno.test("placementOf() names the variable that contradicts the others", () => {
  const variables = { OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_LOCAL_RANK: "0" };
  for (const [rank, value] of [["2", '"2"'], ["-1", '"-1"'], ["1\x1b[2J", '"1\\u001b[2J"']]) {
    assert.throws(
      () => place({ ...variables, OMPI_COMM_WORLD_RANK: rank! }),
      (error) =>
        error instanceof UserError &&
        error.message === "Cannot use the ranks of the launcher as OMPI_COMM_WORLD_RANK must be " +
            `a whole number from 0 on below OMPI_COMM_WORLD_SIZE: current value is ${value}`,
      rank,
    );
  }
});

Deno.test("openTransport() is one rank when no launcher started the process, or with off", async () => {
  assert.equal(openTransport("auto"), oneRank);
  assert.equal(openTransport("off"), oneRank);
  const values = Float32Array.of(1, 2);
  await oneRank.sum(values);
  assert.deepEqual([...values], [1, 2]);
  assert.deepEqual(await oneRank.gather(Uint8Array.of(3)), [Uint8Array.of(3)]);
  assert.deepEqual(await oneRank.broadcast(Uint8Array.of(4)), Uint8Array.of(4));
});

/** Of ranks that send signals. */
const PERMISSIONS = ["--allow-ffi=/usr,/opt", "--allow-env", "--allow-read", "--allow-run"];

/** What three ranks print of `ranks.ts verbs`. */
const verbs = once(async () => {
  const ranks = await mpirun<{ rank: number } & Record<string, unknown>>(3, "ranks.ts", ["verbs"], {
    permissions: PERMISSIONS,
  });
  assert.equal(ranks.lines.length, 3, ranks.stderr); // rank 0 handles events while it waits, as `aliveWhileWaiting()` says
  return ranks;
});

/** (1e8 − 1e8) + 1.25; in another order the last addend would be rounded to 0. */
const SUMS = { first: 1.25, odd: -1, last: "NaN", short: [6] };

withRanks("openTransport() gathers and broadcasts bytes between three ranks", async () => {
  const { lines } = await verbs();
  const all = { size: 3, gathered: [[0], [1, 1], [2, 2, 2]], first: [7, 8, 9], empty: 0 };
  assert.deepEqual(
    lines.map(({ rank, localRank, size, gathered, first, empty }) => (
      { rank, localRank, size, gathered, first, empty }
    )),
    [0, 1, 2].map((rank) => ({ rank, localRank: rank, ...all })),
  );
});

withRanks("alltoall() sends each rank its part", async () => {
  const { lines } = await verbs();
  assert.deepEqual(lines.map(({ received }) => received), [
    [[0], [1], [2]],
    [[0, 0], [1, 1], [2, 2]],
    [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
  ]);
});

withRanks("sum() adds in the order of ranks, on every rank", async () => {
  const { lines, code, stderr } = await verbs();
  assert.deepEqual(lines.map(({ sums }) => sums), [SUMS, SUMS, SUMS]);
  assert.equal(code, 0, stderr); // the ranks end without a signal
});

withRanks("sum() gives the same bits over TCP, as between hosts", async () => {
  const flags = ["--mca", "btl", "tcp,self", "--mca", "osc", "^sm"];
  const { lines, stderr, code } = await mpirun(3, "ranks.ts", ["sum"], { flags });
  assert.deepEqual(lines, [0, 1, 2].map((rank) => ({ rank, sums: SUMS })), stderr);
  assert.equal(code, 0, stderr);
});

withRanks("sum() refuses arrays of different lengths on every rank", async () => {
  const { lines } = await verbs();
  const sentence = (own: number, other: string) =>
    `Cannot sum as all ranks must give as many numbers, ${own}: current number of rank ${other}`;
  assert.deepEqual(lines.map(({ lengths }) => lengths), [
    sentence(10, "1 is 11"),
    sentence(11, "0 is 10"),
    sentence(12, "0 is 10"),
  ]);
});

/** Seconds that `mpirun` would wait before it kills a rank that lives on: more than ranks need on a busy machine. */
const PATIENCE = 100;

/** The sentence with which ranks end, before `mpirun` loses its patience. */
async function endOf(...args: readonly string[]): Promise<string> {
  const flags = args[0] === "leave" ? ["--mca", "odls_base_sigkill_timeout", `${PATIENCE}`] : [];
  const since = performance.now();
  const { lines, stderr, code } = await mpirun(2, "ranks.ts", args, {
    permissions: PERMISSIONS,
    flags,
  });
  assert.ok(performance.now() - since < 1000 * PATIENCE, "mpirun has waited");
  assert.notEqual(code, 0);
  assert.deepEqual(lines, []);
  const sentences = stderr.split("\n").filter((line) => line.startsWith("Error: "));
  assert.equal(sentences.length, 1, stderr);
  return sentences[0]!;
}

withRanks("leave() ends all ranks with the reason when the program lives on", async () => {
  const sentence = "Cannot let the other ranks wait as this one has failed: the device is lost";
  assert.equal(await endOf("leave"), `Error: rank 1: ${sentence}`);
});

withRanks("openTransport() ends all ranks when one is stopped", async () => {
  const sentence = "Cannot continue as every rank must answer within 3 s (--timeout)";
  assert.deepEqual(
    await Promise.all(["1", "0"].map((stopped) => endOf("stop", "3", stopped))),
    [`Error: ${sentence}: rank 1 is silent`, `Error: rank 1: ${sentence}: rank 0 is silent`],
  );
});

withRanks("watch() names the rank that makes no progress, though its worker answers", async () => {
  const sentence = "Cannot continue as a step must make progress within 1 s (--timeout)";
  assert.equal(
    await endOf("block"),
    `Error: ${sentence}: rank 1 is not done with its own part`,
  );
});

/** What a process prints that believes to be the first of two ranks, without a launcher. */
async function printedAlone(
  permissions: readonly string[],
  environment: Record<string, string> = {},
): Promise<string> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "--no-check", "--no-prompt", "--allow-env", ...permissions, PROGRAM],
    env: {
      OMPI_COMM_WORLD_RANK: "0",
      OMPI_COMM_WORLD_SIZE: "2",
      OMPI_COMM_WORLD_LOCAL_RANK: "0",
      ...environment,
    },
  }).output();
  assert.notEqual(code, 0);
  return new TextDecoder().decode(stderr);
}

Deno.test("openTransport() names the permission that is missing", async () => {
  assert.match(
    await printedAlone([]),
    /Cannot load \S+libmpi\S+ as the permission --allow-ffi is missing/,
  );
});

/** Where Debian has libraries. */
const SYSTEM = `/usr/lib/${Deno.build.arch}-linux-gnu`;

Deno.test({
  name: "openTransport() finds libmpi in LD_LIBRARY_PATH, and names one that is not Open MPI's",
  ignore: !existsSync(join(SYSTEM, "libmpi.so.40")),
  async fn() {
    const directory = Deno.makeTempDirSync(), library = join(directory, "libmpi.so.40");
    const print = () =>
      printedAlone([`--allow-ffi=${directory}`], { LD_LIBRARY_PATH: `/none:${directory}` });
    try {
      Deno.symlinkSync(join(SYSTEM, "libc.so.6"), join(directory, "libc.so.6"));
      Deno.symlinkSync(join(SYSTEM, "libmpi.so.40"), library);
      assert.match(
        await print(), // where MPI starts alone
        /as MPI must number them as the launcher does, 0 of 2: current number is 0 of 1/,
      );
      Deno.removeSync(library);
      Deno.symlinkSync(join(SYSTEM, "libm.so.6"), library);
      const unfit =
        `Cannot use ${library} as it must be that of Open MPI, version 4 or 5: it lacks`;
      assert.ok((await print()).includes(unfit));
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  },
});
