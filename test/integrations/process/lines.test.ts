import { expect, test } from 'vitest';
import { pieceChars } from '#kernel/redact.ts';
import { lineSplitter } from '../../../src/integrations/process/lines.ts';

function split(...chunks: string[]): string[] {
  const lines: string[] = [];
  const splitter = lineSplitter((line) => lines.push(line));
  for (const chunk of chunks) splitter.push(chunk);
  splitter.end();
  return lines;
}

test('lines come without their ends, terminal sequences and controls, whatever the chunks', () => {
  expect(split('a\nb\r', '\nc\u001b[3', '1mred\u001b[0m\0\n\n\td')).toEqual(['a', 'b', 'cred', '', '\td']);
});

test.each([
  ['in one line', (text: string) => [`${text}\n`]],
  ['without a line end', (text: string) => [text]],
  ['in small chunks', (text: string) => text.match(/[^]{1,777}/g) ?? []],
])('a long text comes in pieces of one length, which only the last may not have: %s', (_, chunks) => {
  const text = `\u001b[31m${'x'.repeat(pieceChars - 3)}a secret over the cut\u001b[0m${'y'.repeat(pieceChars)}`;
  const pieces = split(...chunks(text));
  expect(pieces.slice(0, -1).map(({ length }) => length)).toEqual([pieceChars, pieceChars]);
  expect(pieces.join('')).toBe(`${'x'.repeat(pieceChars - 3)}a secret over the cut${'y'.repeat(pieceChars)}`);
});

test('a character of two halves is never cut into what cannot be stored', () => {
  const pieces = split('\u{1F600}'.repeat(pieceChars / 2 + 1).slice(1));
  expect(pieces.every((piece) => piece.isWellFormed())).toBe(true);
});
