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
      while (rest.length > maxLine) {
        emit(printable(rest.slice(0, maxLine)));
        rest = rest.slice(maxLine);
      }
    },
    end() {
      if (rest) emitPieces(rest.replace(/\r$/, ''));
      rest = '';
    },
  };

  function emitPieces(line: string): void {
    for (let at = 0; at === 0 || at < line.length; at += maxLine) emit(printable(line.slice(at, at + maxLine)));
  }
}

function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/\u001b\[[0-9;?]*[a-zA-Z]|[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g, '').toWellFormed();
}
