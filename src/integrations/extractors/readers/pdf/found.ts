import type { Rect } from './geometry.ts';
import type { Piece } from './page.ts';

/** A cell of a table on a page. */
export interface FoundCell {
  readonly text: string;
  /** Of the cell where there are lines, of its text where there are none. */
  readonly rect: Rect;
  /** How sure it is that the text belongs here, 0 to 1. */
  readonly place: number;
  /** Repeats what a cell over several rows or columns says. */
  readonly covered: boolean;
}

/** A table on a page. */
export interface Found {
  readonly rect: Rect;
  readonly ruled: boolean;
  /** Left and right of each column. */
  readonly columns: readonly (readonly [left: number, right: number])[];
  readonly rows: readonly (readonly FoundCell[])[];
}

/** Pieces as they are read: lines from the top, each from the left. */
export function reading(pieces: readonly Piece[]): Piece[][] {
  const lines: Piece[][] = [];
  let line: Piece[] = [];
  let base = 0;
  for (const piece of pieces.toSorted((a, b) => a.baseline - b.baseline)) {
    if (line.length > 0 && piece.baseline - base > Math.max(1, piece.size * 0.35)) {
      lines.push(line);
      line = [];
    }
    if (line.length === 0) base = piece.baseline;
    line.push(piece);
  }
  if (line.length > 0) lines.push(line);
  return lines.map((one) => one.toSorted((a, b) => a.left - b.left));
}

/** The text of pieces of one line, with a space where there is room for one. */
export function lineText(pieces: readonly Piece[]): string {
  let text = '';
  let last: Piece | null = null;
  for (const piece of pieces) {
    if (last && piece.left - last.right > piece.size * 0.12 && !/\s$/.test(text) && !/^\s/.test(piece.text))
      text += ' ';
    text += piece.text;
    last = piece;
  }
  return text.replaceAll(/\s+/g, ' ').trim();
}

/** The text of a cell; what does not run from left to right comes by itself. */
export function cellText(pieces: readonly Piece[]): string {
  const upright = reading(pieces.filter((piece) => piece.upright)).map(lineText);
  const others = pieces
    .filter((piece) => !piece.upright)
    .toSorted((a, b) => a.left - b.left || b.bottom - a.bottom)
    .map(({ text }) => text.trim());
  return [...upright, ...others].filter((text) => text !== '').join('\n');
}
