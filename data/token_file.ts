/** A tokenized text: documents one after the other, each followed by end-of-text. */
export interface TokenizedText {
  readonly tokens: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  /** Where each document starts in `tokens`. */
  readonly documentStarts: Uint32Array<ArrayBuffer>;
  /** UTF-8 bytes of the documents. */
  readonly bytes: number;
}
