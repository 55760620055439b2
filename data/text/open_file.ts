import { Buffer } from "node:buffer";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { readAt, reading } from "../../files/disk.ts";
import { DataError } from "./data_error.ts";
import { packingOf, unpack } from "./unpack.ts";

/** Bytes per read. */
const CHUNK_BYTES = 4 * 2 ** 20;

/** A file of data that is open for reading. */
export class OpenFile implements Disposable {
  /** Name in messages. */
  readonly name: string;
  readonly byteLength: number;
  /** Where the last read has ended. */
  bytesRead = 0;
  readonly #file: number;

  constructor(path: string, name: string) {
    this.name = name;
    this.#file = attempt(name, () => openSync(path, "r"));
    this.byteLength = fstatSync(this.#file).size;
  }

  /** The content from the first byte, unpacked. */
  content(chunkBytes: number = CHUNK_BYTES): AsyncIterable<Uint8Array> {
    const packing = packingOf(this.name), chunks = this.#chunks(chunkBytes);
    return packing ? unpack(chunks, packing, this.name) : chunks;
  }

  async *#chunks(most: number): AsyncGenerator<Uint8Array> {
    for (this.bytesRead = 0;;) {
      const chunk = new Uint8Array(most), at = this.bytesRead;
      const length = attempt(this.name, () => readSync(this.#file, chunk, 0, most, at));
      if (length === 0) return;
      this.bytesRead += length;
      yield chunk.subarray(0, length);
    }
  }

  /** The beginning of the content, unpacked. */
  async head(bytes: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let length = 0;
    for await (const part of this.content(bytes)) {
      parts.push(part);
      length += part.length;
      if (length >= bytes) break;
    }
    return Buffer.concat(parts).subarray(0, bytes);
  }

  /** The bytes between two places, as they are in the file. */
  slice(start: number, end: number = this.byteLength): ArrayBuffer {
    const bytes = new Uint8Array(end - start);
    if (attempt(this.name, () => readAt(this.#file, bytes, start)) < bytes.length) {
      throw new Error("it breaks off");
    }
    this.bytesRead = end;
    return bytes.buffer;
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }
}

/** Runs an action on a file. If the system refuses, the error names the file. */
export function attempt<T>(name: string, action: () => T): T {
  return reading(action, (reason) => new DataError(`${name}: ${reason}`));
}
