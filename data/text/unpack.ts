import { Buffer } from "node:buffer";
import { pipeline, type Transform } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { UserError } from "../../files/user_error.ts";
import { DataError } from "./data_error.ts";

/**
 * Streams of bytes, unpacked.
 *
 * @module
 */

/** Compression of a file. */
type Packing = "gzip" | "zstd";

/** Compression of all formats but Parquet, by the end of a file's name. */
export const PACKINGS: Readonly<Record<string, Packing>> = { ".gz": "gzip", ".zst": "zstd" };

/** The compression that a file's name declares. */
export function packingOf(name: string): Packing | undefined {
  return PACKINGS[extensionOf(name)];
}

/** The last part of a name, with its dot. */
export function extensionOf(name: string): string {
  return /\.[^./\\]*$/.exec(name)?.[0].toLowerCase() ?? "";
}

/** Bytes that are unpacked at a time. */
const CHUNK = { chunkSize: 2 ** 18 };

const BREAKS_OFF = "it breaks off";

/**
 * Unpacks a file of one or several members or frames, of which parallel packers write many.
 *
 * Node's decoder of gzip reads all members, as DecompressionStream does not. Its decoder of zstd ends without
 * an error after the first frame, and if a file breaks off, so that each frame has its own decoder.
 *
 * @throws {DataError} with the number of bytes that were read if the file is damaged or breaks off.
 */
export async function* unpack(
  chunks: AsyncIterable<Uint8Array>,
  packing: Packing,
  file: string,
): AsyncGenerator<Uint8Array> {
  const input = new ByteReader(chunks);
  try {
    if (packing === "gzip") yield* through(input.take(), createGunzip(CHUNK));
    else while (!await input.atEnd()) yield* through(frame(input), createZstdDecompress(CHUNK));
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === "Z_BUF_ERROR" ? BREAKS_OFF : message;
    throw new DataError(`${file} as it must be whole ${packing}: ${reason}, at byte ${input.at}`);
  }
}

/** The output of a decoder. */
function through(chunks: AsyncIterable<Uint8Array>, decoder: Transform): AsyncIterable<Uint8Array> {
  return pipeline(chunks, decoder, () => {}); // whoever reads the output receives the errors
}

/** The first four bytes of a frame with data; the upper 28 of these 32 bits in a frame to skip. */
const FRAME = 0xfd2fb528, SKIPPED = 0x184d2a5;

/** The bytes of a frame (https://www.rfc-editor.org/rfc/rfc8878): header, blocks, and checksum if it has one. */
async function* frame(input: ByteReader): AsyncGenerator<Uint8Array> {
  const magic = await input.read(4), first = magic.readUInt32LE();
  const isSkipped = first >>> 4 === SKIPPED;
  if (first !== FRAME && !isSkipped) throw new Error("a frame lacks its magic number");
  yield magic;
  if (isSkipped) {
    const size = await input.read(4);
    yield size;
    return yield* input.take(size.readUInt32LE());
  }
  const descriptor = await input.read(1), flags = descriptor[0]!;
  yield descriptor;
  const isSingle = (flags & 0x20) !== 0;
  const sizeBytes = [isSingle ? 1 : 0, 2, 4, 8][flags >>> 6]!;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3]!;
  yield await input.read((isSingle ? 0 : 1) + dictionaryBytes + sizeBytes);
  for (let isLast = false; !isLast;) {
    const header = await input.read(3), bits = header.readUIntLE(0, 3);
    yield header;
    isLast = (bits & 1) !== 0;
    const isRepeated = (bits >>> 1 & 3) === 1; // one byte, which the decoder repeats
    yield* input.take(isRepeated ? 1 : bits >>> 3);
  }
  if ((flags & 4) !== 0) yield await input.read(4);
}

/** Reads any number of bytes from chunks of any sizes. */
class ByteReader {
  /** Bytes that were read. */
  at = 0;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async atEnd(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const { value, done } = await this.#chunks.next();
      if (done) return true;
      this.#rest = value;
    }
    return false;
  }

  async read(length: number): Promise<Buffer> {
    return Buffer.concat(await Array.fromAsync(this.take(length)));
  }

  /** The next bytes in chunks: `length` of them, or all that are left. */
  async *take(length: number = Infinity): AsyncGenerator<Uint8Array> {
    for (let left = length; left > 0;) {
      if (await this.atEnd()) {
        if (length === Infinity) return;
        throw new Error(BREAKS_OFF);
      }
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      this.at += part.length;
      left -= part.length;
      yield part;
    }
  }
}
