import { Buffer } from "node:buffer";
import { fstatSync } from "node:fs";
import { openFile, readAt } from "../../files/disk.ts";

/**
 * The format of TensorBoard's event files: a sequence of records, each an `Event` message of protocol buffers with its
 * length and two checksums. The messages are declared in TensorFlow's `event.proto`, `summary.proto` and
 * `tensor.proto`; the records in its `record_writer.h`.
 *
 * No package writes them. A message is written field by field, so that no schema is needed.
 *
 * @module
 */

/** A value of an event, which TensorBoard shows under its tag. */
export type SummaryValue =
  | { readonly tag: string; readonly scalar: number }
  | { readonly tag: string; readonly markdown: string }
  | { readonly tag: string; readonly histogram: SummaryHistogram };

/** A histogram of numbers. */
export interface SummaryHistogram {
  readonly min: number;
  readonly max: number;
  /** How many numbers there are. */
  readonly count: number;
  /** Upper limits of the buckets in ascending order; each begins where the one before it ends. */
  readonly limits: readonly number[];
  /** Numbers in each bucket. */
  readonly counts: readonly number[];
}

/** The values of a step. */
export interface SummaryEvent {
  readonly step: number;
  /** Seconds since 1970. */
  readonly wallSeconds: number;
  readonly values: readonly SummaryValue[];
}

/** Number of records from `RecordWriter.begin()`. */
export const FIRST_RECORDS = 2;

/** Bytes of a record before its message, and after it. */
const HEADER_BYTES = 12, FOOTER_BYTES = 4;

/** `SessionLog.START` in `event.proto`. */
const SESSION_START = 1;

/** The type of text in `types.proto`. */
const STRING = 7;

/** Wire types of protocol buffers. */
const VARINT = 0, DOUBLE = 1, LENGTH = 2, FLOAT = 5;

const UTF8 = new TextEncoder();

/** Writes records into memory. */
export class RecordWriter {
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(2 ** 12);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /** Bytes of the records that were written. */
  get length(): number {
    return this.#length;
  }

  /** The records that were written; valid until the next one is. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Forgets the records. */
  clear(): void {
    this.#length = 0;
  }

  /**
   * The records that begin a file: the version, by which TensorBoard recognizes it, and the start of a session, upon
   * which a TensorBoard that has read an earlier file of the run forgets it.
   */
  begin(wallSeconds: number): void {
    this.#record(() => {
      this.#double(1, wallSeconds);
      this.#text(3, "brain.Event:2");
    });
    this.#record(() => {
      this.#double(1, wallSeconds);
      this.#message(7, () => this.#integer(1, SESSION_START));
    });
  }

  /** The record of an event. */
  event({ step, wallSeconds, values }: SummaryEvent): void {
    this.#record(() => {
      this.#double(1, wallSeconds);
      this.#integer(2, step);
      this.#message(5, () => {
        for (const value of values) this.#message(1, () => this.#value(value));
      });
    });
  }

  /** The fields of a `Summary.Value`. */
  #value(value: SummaryValue): void {
    this.#text(1, value.tag);
    if ("scalar" in value) return this.#float(2, value.scalar);
    if ("histogram" in value) {
      const { min, max, count, limits, counts } = value.histogram;
      return this.#message(5, () => {
        [min, max, count].forEach((number, i) => this.#double(1 + i, number));
        // 4 and 5 are sums, which no view of TensorBoard uses
        this.#doubles(6, limits);
        this.#doubles(7, counts);
      });
    }
    this.#message(9, () => this.#message(1, () => this.#text(1, "text"))); // the plugin that shows it
    this.#message(8, () => {
      this.#integer(1, STRING);
      this.#message(2, () => this.#message(2, () => this.#integer(1, 1))); // shape [1]
      this.#text(8, value.markdown);
    });
  }

  /** A message as a record: its length and the checksum of that, the message and its checksum. */
  #record(write: () => void): void {
    const start = this.#reserve(HEADER_BYTES);
    write();
    const from = start + HEADER_BYTES, to = this.#reserve(FOOTER_BYTES);
    this.#view.setBigUint64(start, BigInt(to - from), true);
    this.#view.setUint32(start + 8, maskedCrc(this.#bytes, start, start + 8), true);
    this.#view.setUint32(to, maskedCrc(this.#bytes, from, to), true);
  }

  #message(field: number, write: () => void): void {
    this.#varint(8 * field + LENGTH);
    const start = this.#length;
    write();
    const end = this.#length;
    const shift = end - start < 0x80 ? 1 : Math.ceil(Math.log2(end - start + 1) / 7);
    this.#reserve(shift);
    this.#bytes.copyWithin(start + shift, start, end); // only now it is known how many bytes the length has
    this.#length = start;
    this.#varint(end - start);
    this.#length = end + shift;
  }

  #text(field: number, text: string): void {
    this.#message(field, () => {
      const at = this.#reserve(3 * text.length); // UTF-8 has at most three bytes per UTF-16 unit
      this.#length = at + UTF8.encodeInto(text, this.#bytes.subarray(at)).written;
    });
  }

  #integer(field: number, value: number): void {
    this.#varint(8 * field + VARINT);
    this.#varint(value);
  }

  #double(field: number, value: number): void {
    this.#varint(8 * field + DOUBLE);
    const at = this.#reserve(8);
    this.#view.setFloat64(at, value, true);
  }

  #float(field: number, value: number): void {
    this.#varint(8 * field + FLOAT);
    const at = this.#reserve(4);
    this.#view.setFloat32(at, value, true);
  }

  #doubles(field: number, values: readonly number[]): void {
    this.#message(field, () => {
      const at = this.#reserve(8 * values.length);
      values.forEach((value, i) => this.#view.setFloat64(at + 8 * i, value, true));
    });
  }

  /** A non-negative integer, seven bits per byte, the lowest first. */
  #varint(value: number): void {
    let at = this.#reserve(1), left = value;
    for (; left >= 0x80; left = Math.floor(left / 0x80)) {
      this.#bytes[at] = left % 0x80 + 0x80;
      at = this.#reserve(1);
    }
    this.#bytes[at] = left;
  }

  /** Makes room for bytes and returns where they begin. */
  #reserve(count: number): number {
    const start = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return start;
  }
}

/** The first records of a file. */
export interface RecordCount {
  /** How many there are. */
  readonly count: number;
  /** Where the last one ends. */
  readonly endBytes: number;
  /** The last one. */
  readonly last: Uint8Array;
}

/** Bytes that `countRecords()` reads at once. */
const CHUNK_BYTES = 2 ** 20;

/** Counts the whole records at the beginning of a file by their headers, up to `most`. */
export function countRecords(path: string, most: number): RecordCount {
  using file = openFile(path, "r");
  const { size } = fstatSync(file.handle), chunk = Buffer.alloc(CHUNK_BYTES);
  let count = 0, endBytes = 0, lastAt = 0;
  for (let chunkAt = 0, read = -1; count < most && endBytes + HEADER_BYTES <= size;) {
    if (endBytes + HEADER_BYTES > chunkAt + read) {
      read = readAt(file.handle, chunk, chunkAt = endBytes);
      if (read < HEADER_BYTES) break; // the file became shorter
    }
    const at = endBytes - chunkAt;
    if (chunk.readUInt32LE(at + 8) !== maskedCrc(chunk, at, at + 8)) break;
    const bytes = HEADER_BYTES + Number(chunk.readBigUInt64LE(at)) + FOOTER_BYTES;
    if (endBytes + bytes > size) break;
    lastAt = endBytes;
    endBytes += bytes;
    count++;
  }
  const last = new Uint8Array(endBytes - lastAt);
  readAt(file.handle, last, lastAt);
  return { count, endBytes, last };
}

/** CRC-32C of bytes (RFC 3720, appendix B.4), masked as in TensorFlow's `crc32c.h`. */
function maskedCrc(bytes: Uint8Array, from: number, to: number): number {
  let crc = -1;
  for (let i = from; i < to; i++) crc = CRC_TABLE[(crc ^ bytes[i]!) & 0xff]! ^ crc >>> 8;
  crc = ~crc;
  return ((crc >>> 15 | crc << 17) + 0xa282ead8) >>> 0;
}

/** The polynomial of CRC-32C, bits reversed. */
const CASTAGNOLI = 0x82f63b78;

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >>> 1 ^ CASTAGNOLI : crc >>> 1;
  return crc;
});
