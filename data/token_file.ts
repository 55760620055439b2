import { createHash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";

/** A tokenized text: documents one after the other, each followed by end-of-text. */
export interface TokenizedText {
  /** Ids. */
  readonly tokens: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  /** Where each document starts in `tokens`. */
  readonly documentStarts: Uint32Array<ArrayBuffer>;
  /** UTF-8 bytes of the documents. */
  readonly bytes: number;
}

/** Which text and tokenizer a token file was made from. */
export interface TokenFileOrigin {
  /** SHA-256 of the text, in hexadecimal. */
  readonly textHash: string;
  /** `Tokenizer.hash` of the tokenizer. */
  readonly tokenizerHash: string;
}

/**
 * A token file is this header, padded with zeros to 256 bytes, then the document starts (u32), then
 * the tokens (u16 or u32), all little-endian.
 *
 * magic "TOYTOKEN", u32 version, u32 bytes per token, f64 tokens, f64 documents, f64 text bytes, then
 * in 32 bytes each: hash of the text, hash of the tokenizer, SHA-256 of everything after the header.
 */
const MAGIC = "TOYTOKEN";
const VERSION = 1;
const HEADER_BYTES = 256;

/** Writes a token file: beside its place first, synced, then renamed, so that no half one remains. */
export function writeTokenFile(path: string, text: TokenizedText, origin: TokenFileOrigin): void {
  const body = [bytesOf(text.documentStarts), bytesOf(text.tokens)];
  const checksum = createHash("sha256");
  for (const part of body) checksum.update(part);

  const header = new Uint8Array(HEADER_BYTES);
  const view = new DataView(header.buffer);
  header.set(new TextEncoder().encode(MAGIC));
  view.setUint32(8, VERSION, true);
  view.setUint32(12, text.tokens.BYTES_PER_ELEMENT, true);
  view.setFloat64(16, text.tokens.length, true);
  view.setFloat64(24, text.documentStarts.length, true);
  view.setFloat64(32, text.bytes, true);
  header.set(Uint8Array.fromHex(origin.textHash), 40);
  header.set(Uint8Array.fromHex(origin.tokenizerHash), 72);
  header.set(checksum.digest(), 104);

  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.tmp-${crypto.randomUUID()}`;
  try {
    const file = openSync(temporary, "wx");
    try {
      for (const part of [header, ...body]) {
        for (let done = 0; done < part.length;) done += writeSync(file, part, done);
      }
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/**
 * Reads a token file, strictly.
 *
 * @throws {SyntaxError} if it is no token file, is truncated or damaged.
 * @throws {RangeError} if it has a newer version or another origin than expected.
 */
export function readTokenFile(path: string, expected?: TokenFileOrigin): TokenizedText {
  const file = new Uint8Array(readFileSync(path));
  const fail = (reason: string) => new SyntaxError(`Cannot read token file ${path} as ${reason}`);
  if (new TextDecoder().decode(file.subarray(0, 8)) !== MAGIC) {
    throw fail(`it must begin with ${MAGIC}`);
  }
  if (file.length < HEADER_BYTES) throw fail(`its header is cut off after ${file.length} bytes`);
  const view = new DataView(file.buffer);
  const version = view.getUint32(8, true);
  if (version !== VERSION) {
    throw new RangeError(
      `Cannot read token file ${path} as its version must be ${VERSION}: current version is ${version}`,
    );
  }
  const bytesPerToken = view.getUint32(12, true);
  const [tokenCount, documentCount, bytes] = [16, 24, 32].map((at) => view.getFloat64(at, true));
  const length = HEADER_BYTES + documentCount! * 4 + tokenCount! * bytesPerToken;
  if (![2, 4].includes(bytesPerToken) || file.length !== length) {
    throw fail(`it must be ${length} bytes long: current length is ${file.length}`);
  }
  const hex = (at: number) => file.subarray(at, at + 32).toHex();
  if (expected && (hex(40) !== expected.textHash || hex(72) !== expected.tokenizerHash)) {
    throw new RangeError(`Cannot use token file ${path} as it is of another text or tokenizer`);
  }
  const body = file.subarray(HEADER_BYTES);
  if (createHash("sha256").update(body).digest("hex") !== hex(104)) {
    throw fail("its checksum does not match: it is damaged");
  }
  const split = documentCount! * 4;
  const documentStarts = new Uint32Array(body.slice(0, split).buffer);
  const rest = body.slice(split).buffer;
  const tokens = bytesPerToken === 2 ? new Uint16Array(rest) : new Uint32Array(rest);
  return { tokens, documentStarts, bytes: bytes! };
}

function bytesOf({ buffer, byteOffset, byteLength }: Uint16Array | Uint32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
