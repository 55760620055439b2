import assert from "node:assert/strict";
import { LineEditor, PlainLines, readMessage } from "../../commands/chat_input.ts";
import { Screen } from "./screen.ts";

/** Keys and bytes that a test sends. */
function channel() {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>(undefined, {
    highWaterMark: 100,
  });
  const writer = writable.getWriter(), encoder = new TextEncoder();
  return {
    readable,
    send: (text: string | Uint8Array) =>
      writer.write(typeof text === "string" ? encoder.encode(text) : text),
    close: () => writer.close(),
  };
}

/** All messages of a pipe. */
async function messagesOf(...chunks: (string | Uint8Array)[]): Promise<string[]> {
  const { readable, send, close } = channel(), lines = new PlainLines(readable);
  const sent = Promise.all([...chunks.map(send), close()]);
  const messages: string[] = [];
  for (let message; (message = await readMessage(lines));) messages.push(message.text);
  await sent;
  return messages;
}

Deno.test("readMessage() reads a message per line, and blank ones are skipped", async () => {
  assert.deepEqual(await messagesOf("a", "\n\n  \nb\r\nc d "), ["a", "b", "c d "]);
  const bear = new TextEncoder().encode("🐻\n");
  assert.deepEqual(await messagesOf(bear.slice(0, 2), bear.slice(2)), ["🐻"]);
  await assert.rejects(messagesOf(Uint8Array.of(0xff, 0x0a)), /^UserError: .* must be UTF-8$/);
  for (const long of ["x".repeat(2 ** 20 + 1), '"""' + `${"x".repeat(1023)}\n`.repeat(1025)]) {
    await assert.rejects(messagesOf(long), /^UserError: .* at most 1048576 characters$/);
  }
});

Deno.test("readMessage() reads lines that end with a backslash, and between triple quotes, as one message", async () => {
  assert.deepEqual(await messagesOf("a \\\n\\\n b\nc\\"), ["a \n\n b", "c"]);
  assert.deepEqual(await messagesOf('"""a\n\n\\\n/b """\nc\n'), ["a\n\n\\\n/b ", "c"]);
  assert.deepEqual(await messagesOf('"""\na\n"""\n"""b"""\n""""""\nx"""\n'), ["a", "b", 'x"""']);
  assert.deepEqual(await messagesOf('"""\nunfinished\n'), ["unfinished"]);
});

Deno.test("readMessage() starts anew after an interrupt, and ends if nothing was typed", async () => {
  const { readable, send } = channel();
  let prompts = "";
  const lines = new PlainLines(readable, (prompt) => prompts += prompt);
  const message = readMessage(lines);
  await send('"""a\n');
  while (!prompts.includes("... ")) await new Promise((done) => setTimeout(done));
  lines.interrupt();
  while (!prompts.endsWith("\n> ")) await new Promise((done) => setTimeout(done));
  await send("b\n");
  assert.deepEqual(await message, { text: "b", isTypedLine: true });
  const end = readMessage(lines);
  await new Promise((done) => setTimeout(done));
  lines.interrupt();
  assert.equal(await end, undefined);
  assert.equal(prompts, "> ... \n> > \n");
});

/** An editor on a screen of 40 columns. */
function editing() {
  const screen = new Screen(40), keys = channel();
  let interrupts = 0;
  const editor = new LineEditor(keys.readable, screen, {
    onInterrupt: () => {
      interrupts++;
      editor.interrupt();
    },
  });
  return { screen, keys, editor, interrupts: () => interrupts };
}

const LEFT = "\x1b[D", UP = "\x1b[A", CTRL_A = "\x01", CTRL_C = "\x03", CTRL_D = "\x04";

/** Lets the editor see what was sent. */
const settle = () => new Promise((done) => setTimeout(done, 20));

Deno.test("LineEditor edits lines with wide characters and keeps them as a history", async () => {
  const { screen, keys, editor } = editing();
  using _ = editor;
  const typed = readMessage(editor);
  await keys.send(`日本${LEFT}é${CTRL_A}a\r`);
  assert.deepEqual(await typed, { text: "a日é本", isTypedLine: true });
  const again = readMessage(editor);
  await keys.send(`${UP}!\r`);
  assert.equal((await again)?.text, "a日é本!");
  assert.deepEqual(await screen.lines(), ["> a日é本", "> a日é本!"]);
});

Deno.test("LineEditor takes pasted lines as one message, without the keys in them", async () => {
  const { screen, keys, editor } = editing();
  using _ = editor;
  const pasted = readMessage(editor);
  await keys.send("see: \x1b[2");
  await settle();
  await keys.send(`00~/a\\\r\n\tb${CTRL_C}${CTRL_A}\n\nc\x1b[201~ d\r`);
  assert.deepEqual(await pasted, { text: "see: /a\\\n\tb\n\nc d", isTypedLine: false });
  const next = readMessage(editor);
  await keys.send("/e\rrest");
  assert.deepEqual(await next, { text: "/e", isTypedLine: true });
  const later = readMessage(editor); // what was typed before the prompt
  await keys.send("\r");
  assert.equal((await later)?.text, "rest");
  assert.ok(screen.written.startsWith("\x1b[?2004h"));
});

Deno.test("LineEditor inserts a long pasted line where the cursor is", async () => {
  const { keys, editor } = editing();
  using _ = editor;
  const typed = readMessage(editor), long = "日本 a".repeat(5000);
  await keys.send(`ad${LEFT}\x1b[200~${long}\x1b[201~c\r`);
  assert.equal((await typed)?.text, `a${long}cd`);
});

Deno.test("LineEditor drops the line at Ctrl-C, and ends at a second one or at Ctrl-D", async () => {
  const { screen, keys, editor, interrupts } = editing();
  {
    using _ = editor;
    const message = readMessage(editor);
    await keys.send("wrong");
    await settle();
    await keys.send(CTRL_C);
    await keys.send("right\r");
    assert.equal((await message)?.text, "right");
    const end = readMessage(editor);
    await keys.send(CTRL_C);
    assert.equal(await end, undefined);
    assert.equal(interrupts(), 2);
    const closed = readMessage(editor);
    await keys.send(CTRL_D);
    assert.equal(await closed, undefined);
    assert.equal(await readMessage(editor), undefined);
  }
  assert.ok(screen.written.endsWith("\x1b[?2004l"));
});
