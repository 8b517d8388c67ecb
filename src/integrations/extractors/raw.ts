import { read } from 'node:fs';
import { promisify } from 'node:util';
import type { Limits } from './errors.ts';
import type { Box, CellNote, Citation, ColumnType, Definition, Extracted, Format, Progress } from './extractor.ts';

/** What a reader found, before anybody has asked what it means. */
export interface RawCell {
  readonly text: string;
  /** The file itself says what it is. */
  readonly native?: { readonly type: ColumnType; readonly value: string | number | boolean };
  /** How certain it is that the text stands in this cell; default 1. */
  readonly place?: number;
  readonly note?: CellNote;
}

export interface RawRow {
  readonly type: 'row';
  /** Holes are empty cells. */
  readonly cells: readonly (RawCell | undefined)[];
  /** Where the cell of a column is, empty or not. From 0. */
  readonly cite: (column: number) => Citation;
}

export type Raw =
  | {
      readonly type: 'table';
      readonly name: string;
      readonly page?: number;
      readonly sheet?: string;
      readonly box?: Box;
      readonly ruled?: boolean;
      /** How many rows the file itself says are headers. */
      readonly headers?: number;
      /** Goes on with the table before: same columns, its repeated header is dropped. */
      readonly continues?: boolean;
    }
  | RawRow
  | { readonly type: 'end' }
  | Extract<Extracted, { type: 'warning' }>
  | Progress;

/** A file that is open, and that nobody can replace. */
export interface OpenFile {
  readonly fd: number;
  readonly sizeBytes: number;
}

/** ANSWER: of an external extractor. LINES: the text of a PDF as it is laid out, a table a page. */
export type TaskFormat = Format | 'ANSWER' | 'LINES';

export interface Source extends OpenFile {
  readonly format: TaskFormat;
  readonly definition: Definition;
  readonly limits: Limits;
  /** A reader may leave out what is beyond so many rows of a table; Infinity: none. */
  readonly maxRows: number;
}

/**
 * Gives each table's head, its rows from the top, and its end.
 * @throws ExtractionError
 */
export type Reader = (source: Source) => AsyncIterable<Raw>;

/** `A`, `Z`, `AA` of a column from 0. */
export function columnLetters(column: number): string {
  let letters = '';
  for (let rest = column + 1; rest > 0; rest = Math.floor((rest - 1) / 26))
    letters = String.fromCharCode(65 + ((rest - 1) % 26)) + letters;
  return letters;
}

const readAt = promisify(read);

/** Bytes of the file; fewer where it ends. */
export async function readBytes({ fd, sizeBytes }: OpenFile, from = 0, most = sizeBytes): Promise<Buffer<ArrayBuffer>> {
  const bytes = Buffer.allocUnsafeSlow(Math.max(0, Math.min(most, sizeBytes - from)));
  let filled = 0;
  while (filled < bytes.length) {
    const { bytesRead } = await readAt(fd, bytes, filled, bytes.length - filled, from + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

/** The whole file in pieces. */
export async function* chunksOf(file: OpenFile, chunkBytes = 262_144): AsyncGenerator<Buffer<ArrayBuffer>> {
  for (let at = 0; at < file.sizeBytes;) {
    const chunk = await readBytes(file, at, chunkBytes);
    if (chunk.length === 0) return;
    at += chunk.length;
    yield chunk;
  }
}
