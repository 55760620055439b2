/** A program that tests start with mpirun: it does what its argument names, and prints one line of JSON. */
import { openTransport } from "../../distributed/open_mpi.ts";
import { SUM_FLOATS } from "../../distributed/transport.ts";

const [task, seconds = "60", stopped] = Deno.args;
const transport = openTransport("auto", { timeout: Number(seconds) });
const { rank, size, localRank } = transport;
const print = (value: unknown) =>
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(value)}\n`));
const bytesOf = (...values: number[]) => Uint8Array.from(values);

/** Numbers whose sum depends on its order, in more than one piece, and fewer numbers than ranks. */
async function sums() {
  const length = SUM_FLOATS + 11, values = new Float32Array(length);
  const [a, b, c] = [1e8, -1e8, 1.25];
  values.fill([a, b, c][rank % 3]!);
  values[length - 1] = rank === 1 ? Infinity : -Infinity;
  const short = Float32Array.of(rank + 1), none = new Float32Array();
  await Promise.all([transport.sum(values), transport.sum(short), transport.sum(none)]);
  const [first] = values, odd = values.subarray(0, -1).findIndex((v) => v !== first);
  return { first, odd, last: String(values[length - 1]), short: [...short] };
}

/** Returns only if the event loop of rank 0 is alive while its call waits for rank 1, which waits for a signal of that loop. */
async function aliveWhileWaiting() {
  const called = Promise.withResolvers<void>(), call = () => called.resolve();
  Deno.addSignalListener("SIGUSR1", call);
  const pids = await transport.gather(new Uint8Array(Uint32Array.of(Deno.pid).buffer));
  if (rank === 0) {
    const [pid] = new Uint32Array(pids[1]!.slice().buffer);
    setTimeout(() => Deno.kill(pid!, "SIGUSR1"), 5);
  } else if (rank === 1) await called.promise;
  await transport.barrier();
  Deno.removeSignalListener("SIGUSR1", call);
}

/** What a program does that lives on after its training has failed, longer than the test waits. */
const livingOn = () => new Promise((resolve) => setTimeout(resolve, 200_000));

if (task === "verbs") {
  // several calls at once run in turn
  const [gathered, , first, empty] = await Promise.all([
    transport.gather(bytesOf(...Array(rank + 1).fill(rank))),
    transport.barrier(),
    transport.broadcast(rank === 0 ? bytesOf(7, 8, 9) : undefined),
    transport.broadcast(),
  ]);
  // to rank r goes the number of this one, r + 1 times
  const sent = Array.from({ length: size }, (_, r) => bytesOf(...Array(r + 1).fill(rank)));
  const received = (await transport.alltoall(sent)).map((bytes) => [...bytes]);
  const lengths = await transport.sum(new Float32Array(10 + rank))
    .catch((error) => (error as Error).message);
  await aliveWhileWaiting();
  print({
    ...{ rank, size, localRank, received, lengths },
    gathered: gathered.map((b) => [...b]),
    first: [...first],
    empty: empty.length,
    sums: await sums(),
  });
} else if (task === "sum") {
  print({ rank, sums: await sums() });
} else if (task === "leave") {
  if (rank === 1) {
    transport.leave("the device is lost");
    await livingOn();
  }
  await transport.barrier(); // never complete
} else if (task === "stop") {
  await transport.barrier();
  await new Promise((resolve) => setTimeout(resolve, 2000)); // until all have answered a ping
  if (rank === Number(stopped)) Deno.kill(Deno.pid, "SIGSTOP");
  await transport.barrier();
} else if (task === "block") {
  // the worker answers while the main thread does nothing else
  if (rank === 1) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60_000);
  await transport.watch(1000, () => transport.barrier());
}
await transport.close();
