import { setTimeout as delay } from "node:timers/promises";
import { MOST_UNREAD_BYTES, STALLED_MS } from "./limits.ts";

/** The body of a response, and the time when it ends. */
export interface TextStream {
  /** UTF-8. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Resolves once all texts are sent or the reader has left; it is rejected with an error of their generator. */
  readonly ended: Promise<void>;
}

/**
 * Sends texts. The generator is asked for more only while few bytes wait for the reader.
 *
 * @param onLeave is called when the reader leaves, or takes nothing for a minute. The generator must end then.
 */
export function textStream(
  texts: AsyncGenerator<string, void>,
  onLeave: () => void,
  { stalledMs = STALLED_MS }: { stalledMs?: number } = {},
): TextStream {
  const utf8 = new TextEncoder(), ended = Promise.withResolvers<void>();
  ended.promise.catch(() => {}); // the reader learns of it, too
  let stalled: ReturnType<typeof setTimeout> | undefined;
  let hasLeft = false, isLong = false; // the last text
  const leave = () => {
    clearTimeout(stalled);
    hasLeft = true;
    onLeave();
    texts.return().then(() => ended.resolve(), ended.reject);
  };
  const readable = new ReadableStream<Uint8Array>({
    async pull(controller) {
      clearTimeout(stalled);
      if (isLong) await delay(0); // other requests are answered between long texts
      try {
        const { value, done } = await texts.next();
        if (hasLeft) return;
        if (done) {
          ended.resolve();
          return controller.close();
        }
        const bytes = utf8.encode(value);
        isLong = bytes.length >= MOST_UNREAD_BYTES;
        controller.enqueue(bytes);
      } catch (error) {
        ended.reject(error);
        return controller.error(error);
      }
      if (controller.desiredSize! > 0) return;
      stalled = setTimeout(() => {
        controller.error(new Error("The reader of a stream takes nothing"));
        leave();
      }, stalledMs);
    },
    cancel: leave,
  }, new ByteLengthQueuingStrategy({ highWaterMark: MOST_UNREAD_BYTES }));
  return { readable, ended: ended.promise };
}

/**
 * Sends texts as they come. The stream ends if its reader takes nothing while many bytes wait.
 *
 * @param begin is called with what sends a text and what ends the stream; it returns what is called at the end.
 */
export function pushedStream(
  begin: (send: (text: string) => void, end: () => void) => () => void,
): ReadableStream<Uint8Array> {
  const utf8 = new TextEncoder();
  let stop: () => void;
  return new ReadableStream<Uint8Array>({
    start(controller) {
      const end = () => {
        stop();
        controller.close();
      };
      stop = begin((text) => {
        controller.enqueue(utf8.encode(text));
        if (controller.desiredSize! < 0) end();
      }, end);
    },
    cancel: () => stop(),
  }, new ByteLengthQueuingStrategy({ highWaterMark: MOST_UNREAD_BYTES }));
}
