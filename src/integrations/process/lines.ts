import type { RecordedChild } from '#kernel/processes/children.ts';
import type { OutputStream } from './contract.ts';
import { pieceChars as maxLine } from '#kernel/redact.ts';

/**
 * Cuts a text that comes in chunks into lines (and longer ones into pieces: a program need not ever write a line end), without their ends and without the characters that a log line cannot
 * hold (terminal sequences, NUL and other controls; a tab stays).
 */
export function lineSplitter(emit: (line: string) => void): { push(chunk: string): void; end(): void } {
  let rest = '';
  return {
    push(chunk) {
      const lines = (rest + chunk).split(/\r?\n|\r(?!$)/);
      rest = lines.pop() ?? '';
      for (const line of lines) emitPieces(line);
      if (rest.length <= maxLine) return;
      // Cleaned before it is cut: a piece that is shorter than all others would look like the last one.
      const whole = unfinished.exec(rest)?.index ?? rest.length;
      rest = printable(rest.slice(0, whole)) + rest.slice(whole);
      while (rest.length > maxLine) {
        emit(rest.slice(0, maxLine).toWellFormed());
        rest = rest.slice(maxLine);
      }
    },
    end() {
      if (rest) emitPieces(rest.replace(/\r$/, ''));
      rest = '';
    },
  };

  function emitPieces(line: string): void {
    const clean = printable(line);
    for (let at = 0; at === 0 || at < clean.length; at += maxLine) emit(clean.slice(at, at + maxLine).toWellFormed());
  }
}

/** A terminal sequence whose end has not come yet. */
// oxlint-disable-next-line no-control-regex
const unfinished = /\u001b(?:\[[0-9;?]*)?$/;

function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/\u001b\[[0-9;?]*[a-zA-Z]|[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g, '');
}

/** Hands on the lines of a child's output, each when the one before it was taken. */
export async function readLines(
  { child }: RecordedChild,
  name: OutputStream,
  onOutput: (stream: OutputStream, line: string) => void | Promise<void>,
  fail: (error: unknown) => void,
): Promise<void> {
  const stream = name === 'STDOUT' ? child.stdout : child.stderr;
  if (!stream) return;
  const ready: string[] = [];
  const splitter = lineSplitter((line) => ready.push(line));
  let failed = false;
  const deliver = async (): Promise<void> => {
    for (const line of ready.splice(0)) {
      if (failed) return;
      try {
        await onOutput(name, line);
      } catch (error) {
        failed = true; // the rest is read and dropped, so that the process can end
        fail(error);
      }
    }
  };
  // What is not read stays in the pipe and holds the process back.
  for await (const chunk of stream.setEncoding('utf8') as AsyncIterable<string>) {
    splitter.push(chunk);
    await deliver();
  }
  splitter.end();
  await deliver();
}
