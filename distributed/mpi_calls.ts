import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import type { HeartbeatThread } from "./heartbeat_thread.ts";
import type { Mpi } from "./libmpi.ts";
import type { Placement } from "./placement.ts";

/** The calls that wait for other ranks, or compute: they leave the event loop alive. */
type Nonblocking =
  | "MPI_Alltoallv"
  | "MPI_Allgatherv"
  | "MPI_Reduce_local"
  | "addInMemory"
  | "MPI_Bcast"
  | "MPI_Barrier"
  | "MPI_Win_fence";

type Bytes = Uint8Array<ArrayBuffer>;
type Integers = Int32Array<ArrayBuffer>;

/** What ranks exchange. Lengths count elements. */
type Values = Bytes | Float32Array<ArrayBuffer>;

/** Calls of MPI on other threads. */
export class MpiCalls {
  /** The last of those that were made in turn. */
  #last: Promise<unknown> = Promise.resolve();
  /** What the library reads or writes now, and may not be collected. */
  readonly #inFlight = new Set<readonly unknown[]>();
  readonly #heartbeat: HeartbeatThread;

  constructor(readonly symbols: Mpi, readonly placement: Placement, heartbeat: HeartbeatThread) {
    this.#heartbeat = heartbeat;
  }

  /** Makes calls after all earlier ones. */
  inTurn<T>(calls: () => Promise<T>): Promise<T> {
    const result = this.#last.then(calls);
    this.#last = result.catch(() => {});
    return result;
  }

  /** Makes a call on another thread. */
  async call<Name extends Nonblocking>(
    name: Name,
    ...values: Parameters<Mpi[Name]>
  ): Promise<void> {
    const held = values.map((value) => ArrayBuffer.isView(value) ? outside(value) : value);
    this.#inFlight.add(held);
    const call = this.symbols[name] as (...values: unknown[]) => Promise<number>;
    this.#heartbeat.note(1);
    const code = await call(...held);
    this.#heartbeat.note(-1);
    this.#inFlight.delete(held);
    checkCode(this.symbols, name, code);
  }

  /** Puts the values of all ranks, of these lengths, behind each other. */
  async allgather<T extends Values>(own: T, all: T, lengths: Integers): Promise<void> {
    const [type, world] = this.#handles(own), from = [own, own.length, type] as const;
    await this.call("MPI_Allgatherv", ...from, all, lengths, startsOf(lengths), type, world);
  }

  /** Part r of the values, of the r-th length, goes to rank r; puts what all ranks send to this one behind each other. */
  async alltoall<T extends Values>(values: T, received: T, lengths: Integers): Promise<void> {
    const [type, world] = this.#handles(values),
      from = [values, lengths, startsOf(lengths), type] as const;
    const owns = integers(lengths.length).fill(lengths[this.placement.rank]!);
    await this.call("MPI_Alltoallv", ...from, received, owns, startsOf(owns), type, world);
  }

  /** Fills an array with the bytes that it has on rank 0. */
  async broadcast(bytes: Bytes): Promise<void> {
    const [type, world] = this.#handles(bytes);
    await this.call("MPI_Bcast", bytes, bytes.length, type, 0, world);
  }

  /** The lengths that ranks give, of what they exchange next. */
  async lengths(own: number): Promise<Float64Array> {
    const { size } = this.placement, all = new Float64Array(size);
    const bytes = new Uint8Array(Float64Array.of(own).buffer);
    await this.allgather(bytes, new Uint8Array(all.buffer), integers(size).fill(bytes.length));
    return all;
  }

  /** The type of values, and all ranks. */
  #handles(values: Values): [type: Deno.PointerValue, world: Deno.PointerValue] {
    const { ompi_mpi_float: float, ompi_mpi_byte: byte, ompi_mpi_comm_world: world } = this.symbols;
    return [values instanceof Float32Array ? float : byte, world];
  }
}

/** Throws unless a call succeeded, with what MPI says. */
export function checkCode(symbols: Mpi, name: string, code: number): void {
  if (code === 0) return; // MPI_SUCCESS
  const reason = textOf((...text) => symbols.MPI_Error_string(code, ...text));
  throw new UserError(`Cannot exchange data with the other ranks as ${name} failed: ${reason}`);
}

/** MPI_MAX_ERROR_STRING and MPI_MAX_PROCESSOR_NAME: bytes of a text. */
const MOST_TEXT = 256;

/** The text that a call of MPI writes, and its length. */
export function textOf(write: (text: Bytes, length: Integers) => void): string {
  const text = new Uint8Array(new ArrayBuffer(MOST_TEXT)), length = integers(1);
  write(text, length);
  return printable(new TextDecoder().decode(text.subarray(0, length[0])));
}

/** Where parts of these lengths begin if they follow each other. */
function startsOf(lengths: Int32Array): Integers {
  const starts = integers(lengths.length);
  for (let r = 1; r < lengths.length; r++) starts[r] = starts[r - 1]! + lengths[r - 1]!;
  return starts;
}

/**
 * The same array with its elements outside V8's heap, where those of up to 64 bytes begin, and where they may move while a
 * call on another thread reads or writes them. A view of an array needs its buffer, which moves them out.
 */
function outside({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Zeros outside V8's heap. */
export function integers(length: number): Integers {
  return new Int32Array(new ArrayBuffer(4 * length));
}
