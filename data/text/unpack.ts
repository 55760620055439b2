import { Buffer } from "node:buffer";
import type { Transform } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { UserError } from "../../files/user_error.ts";
import { DataError } from "./data_error.ts";
import type { Format, Packing } from "./formats.ts";

/**
 * The bytes of a file as UTF-8: unpacked and decoded, as streams.
 *
 * @module
 */

/** Bytes that are unpacked at a time. */
const CHUNK = { chunkSize: 2 ** 18 };

/**
 * Unpacks a file.
 *
 * @throws {DataError} with the byte of the file at which it is damaged or breaks off.
 */
export function unpack(
  chunks: AsyncIterable<Uint8Array>,
  packing: Packing,
  file: string,
): AsyncGenerator<Uint8Array> {
  return packing === "gzip" ? unpackGzip(chunks, file) : unpackZstd(chunks, file);
}

function damaged(file: string, packing: Packing, { reason, at }: { reason: string; at: number }) {
  return new DataError(`${file} as it must be whole ${packing}: ${reason}, at byte ${at}`);
}

/**
 * Uses Node's decoder, since DecompressionStream fails on files of several members, which parallel packers
 * write.
 */
async function* unpackGzip(
  chunks: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip(CHUNK);
  let bytes = 0;
  const counted = async function* () {
    for await (const chunk of chunks) {
      bytes += chunk.length;
      yield chunk;
    }
  };
  try {
    yield* through(gunzip, counted());
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw damaged(
      file,
      "gzip",
      code === "Z_BUF_ERROR"
        ? { reason: "it breaks off", at: bytes }
        : { reason: message, at: gunzip.bytesWritten },
    );
  }
}

/** The first four bytes of a frame with data; the upper 28 of these 32 bits in a frame to skip. */
const FRAME = 0xfd2fb528, SKIPPED = 0x184d2a5;

/**
 * Separates the frames (https://www.rfc-editor.org/rfc/rfc8878) and gives each to a decoder: Node's decoder
 * ends without an error after the first frame, of which parallel packers write many, and if a file breaks
 * off.
 */
async function* unpackZstd(
  chunks: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<Uint8Array> {
  const input = new ByteReader(
    chunks,
    (at) => damaged(file, "zstd", { reason: "it breaks off", at }),
  );
  if (await input.atEnd()) throw damaged(file, "zstd", { reason: "it is empty", at: 0 });
  while (!await input.atEnd()) {
    const start = input.at;
    const magic = await input.read(4);
    const first = magic.readUInt32LE();
    if (first >>> 4 === SKIPPED) {
      for (let left = (await input.read(4)).readUInt32LE(); left > 0;) {
        left -= (await input.read(Math.min(left, CHUNK.chunkSize))).length;
      }
      continue;
    }
    if (first !== FRAME) {
      throw damaged(file, "zstd", { reason: "no frame begins there", at: start });
    }
    try {
      yield* through(createZstdDecompress(CHUNK), frame(magic, input));
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw damaged(file, "zstd", { reason: (error as Error).message, at: input.at });
    }
  }
}

/** The rest of a frame: header, blocks, and checksum if it has one. */
async function* frame(magic: Buffer, input: ByteReader): AsyncGenerator<Uint8Array> {
  yield magic;
  const descriptor = await input.read(1);
  yield descriptor;
  const flags = descriptor[0]!;
  const isSingle = (flags & 0x20) !== 0;
  const sizeBytes = [isSingle ? 1 : 0, 2, 4, 8][flags >>> 6]!,
    dictionaryBytes = [0, 1, 2, 4][flags & 3]!;
  yield await input.read((isSingle ? 0 : 1) + dictionaryBytes + sizeBytes);
  for (let last = false; !last;) {
    const header = await input.read(3);
    yield header;
    const bits = header.readUIntLE(0, 3);
    last = (bits & 1) !== 0;
    const isRepeated = (bits >>> 1 & 3) === 1; // one byte, which the decoder repeats
    yield await input.read(isRepeated ? 1 : bits >>> 3);
  }
  if ((flags & 4) !== 0) yield await input.read(4);
}

/** Reads any number of bytes from chunks of any sizes. */
class ByteReader {
  /** Bytes that were read. */
  at = 0;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #brokenOff: (at: number) => Error;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>, brokenOff: (at: number) => Error) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#brokenOff = brokenOff;
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
    const parts: Uint8Array[] = [];
    for (let left = length; left > 0;) {
      if (await this.atEnd()) throw this.#brokenOff(this.at);
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      this.at += part.length;
      left -= part.length;
      parts.push(part);
    }
    const [only] = parts;
    return parts.length === 1
      ? Buffer.from(only!.buffer, only!.byteOffset, only!.length)
      : Buffer.concat(parts);
  }
}

/** The output of a decoder for all chunks as its input. */
async function* through(
  decoder: Transform,
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const feeding = (async () => {
    try {
      for await (const chunk of chunks) {
        if (decoder.destroyed) return;
        if (!decoder.write(chunk)) await new Promise((resolve) => decoder.once("drain", resolve));
      }
      decoder.end();
    } catch (error) {
      decoder.destroy(error as Error);
    }
  })();
  try {
    for await (const chunk of decoder) yield chunk;
    await feeding;
  } finally {
    decoder.destroy();
  }
}

/**
 * UTF-16 as UTF-8.
 *
 * @throws {DataError} if the bytes are not UTF-16.
 */
export async function* decodeUtf16(
  chunks: AsyncIterable<Uint8Array>,
  encoding: NonNullable<Format["encoding"]>,
  file: string,
): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder(encoding, { fatal: true }), encoder = new TextEncoder();
  let at = 0;
  const decode = (chunk?: Uint8Array) => {
    try {
      return encoder.encode(chunk ? decoder.decode(chunk, { stream: true }) : decoder.decode());
    } catch {
      throw new DataError(
        `${file} as it must be ${encoding.toUpperCase()}, as its byte order mark says: ` +
          `it is not behind byte ${at}`,
      );
    }
  };
  for await (const chunk of chunks) {
    yield decode(chunk);
    at += chunk.length;
  }
  yield decode();
}
