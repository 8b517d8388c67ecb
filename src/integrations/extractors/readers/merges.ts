import type { RawCell } from '../raw.ts';

/** A merged area, columns and rows from 0, both ends included. */
export interface Merge {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

/** Beyond so many columns a merged area is decoration, and its value is not repeated. */
const maxRepeated = 256;

/** Gives the cells that a merged area covers the value of its first one. Rows are asked for from the top. */
export class Merges {
  readonly #waiting: Merge[];
  #active: { readonly merge: Merge; readonly cell: RawCell | undefined }[] = [];
  #next = 0;

  constructor(merges: readonly Merge[]) {
    this.#waiting = merges.toSorted((a, b) => a.top - b.top);
  }

  /** The row's cells with what covers them. */
  fill(row: number, cells: (RawCell | undefined)[]): void {
    this.#active = this.#active.filter(({ merge }) => merge.bottom >= row);
    for (; (this.#waiting[this.#next]?.top ?? Infinity) <= row; this.#next++) {
      const merge = this.#waiting[this.#next] as Merge;
      // Its first row was left out when that is empty: then all of it is.
      const cell = merge.top === row ? cells[merge.left] : undefined;
      if (merge.bottom >= row && cell) this.#active.push({ merge, cell });
    }
    for (const { merge, cell } of this.#active)
      for (let at = merge.left; at <= Math.min(merge.right, merge.left + maxRepeated); at++)
        if (cell && (at !== merge.left || row !== merge.top)) cells[at] = { ...cell, note: 'MERGED' };
  }
}

/** `A1:C3`, also with dollars; null when it is not that. */
export function areaOf(text: string): Merge | null {
  const found = /^\$?([A-Z]{1,3})\$?(\d{1,7}):\$?([A-Z]{1,3})\$?(\d{1,7})$/.exec(text);
  if (!found) return null;
  const [left, top] = [columnOf(found[1] ?? ''), Number(found[2]) - 1];
  const [right, bottom] = [columnOf(found[3] ?? ''), Number(found[4]) - 1];
  return left <= right && top <= bottom ? { left, top, right, bottom } : null;
}

/** The column of letters, from 0. */
export function columnOf(letters: string): number {
  let column = 0;
  for (let at = 0; at < letters.length; at++) column = column * 26 + (letters.charCodeAt(at) - 64);
  return column - 1;
}

/** Whether a row has anything of its own. */
export const isEmptyRow = (cells: readonly (RawCell | undefined)[]): boolean =>
  !cells.some((cell) => cell && cell.note !== 'MERGED' && (cell.text !== '' || cell.native !== undefined));
