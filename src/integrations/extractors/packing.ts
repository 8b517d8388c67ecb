import type { Cell, Citation, Extracted, Progress } from './extractor.ts';
import { columnLetters } from './raw.ts';

// Rows on their way from the process that reads them. A cell says its text, its value, its type, a confidence and a place:
// as objects that is ten times the text, and most of it can be told from the rest.

type Rows = Extract<Extracted, { type: 'rows' }>;
const types = ['EMPTY', 'TEXT', 'INTEGER', 'DECIMAL', 'BOOLEAN', 'DATE', 'DATETIME'] as const satisfies Cell['type'][];

/**
 * A text that is its value; a whole number that is written so; null, an empty cell; a text that is its value, of a type;
 * or all of it. All but the last are certain.
 */
type PackedCell =
  | string
  | number
  | null
  | readonly [text: string, type: number]
  | readonly [text: string, type: number, value: Cell['value'], confidence: number, note?: Cell['note']];
/** The line of a record, the sheet and number of a row, or the place of each cell. */
type PackedPlace = number | readonly [sheet: string, row: number] | { readonly cells: readonly Citation[] };

export interface PackedRows {
  readonly type: 'packed';
  readonly table: number;
  readonly from: number;
  readonly places: readonly PackedPlace[];
  readonly rows: readonly (readonly PackedCell[])[];
}

/** What goes from one process to another. */
export type Packed = Exclude<Extracted, Rows> | PackedRows | Progress;

export function pack(item: Extracted | Progress): Packed {
  if (!('type' in item) || item.type !== 'rows') return item;
  const { table, from, rows } = item;
  return { type: 'packed', table, from, places: rows.map(placeOf), rows: rows.map((cells) => cells.map(packedCell)) };
}

export function unpack(item: Packed): Extracted | Progress {
  if (!('type' in item) || item.type !== 'packed') return item;
  const { table, from, places } = item;
  const rows = item.rows.map((cells, row) => {
    const place = places[row];
    return cells.map((cell, column) => cellOf(cell, citationOf(place, column)));
  });
  return { type: 'rows', table, from, rows };
}

function packedCell({ text, type, value, confidence, note }: Cell): PackedCell {
  if (confidence === 1 && note === undefined) {
    if (type === 'EMPTY') {
      if (text === '' && value === null) return null;
    } else if (value === text) return type === 'TEXT' ? text : [text, types.indexOf(type)];
    else if (type === 'INTEGER' && typeof value === 'number' && String(value) === text) return value;
  }
  const packed = [text, types.indexOf(type), value, confidence] as const;
  return note === undefined ? packed : [...packed, note];
}

function cellOf(packed: PackedCell, citation: Citation): Cell {
  if (typeof packed === 'string') return { text: packed, value: packed, type: 'TEXT', confidence: 1, citation };
  if (typeof packed === 'number')
    return { text: String(packed), value: packed, type: 'INTEGER', confidence: 1, citation };
  if (packed === null) return { text: '', value: null, type: 'EMPTY', confidence: 1, citation };
  const [text, at, value = text, confidence = 1, note] = packed;
  const type = types[at] ?? 'TEXT';
  return { text, value, type, confidence, citation, ...(note === undefined ? {} : { note }) };
}

function placeOf(cells: readonly Cell[]): PackedPlace {
  const first = cells[0]?.citation;
  if (first?.kind === 'LINE') {
    const { line } = first;
    const one = ({ citation }: Cell, at: number): boolean =>
      citation.kind === 'LINE' && citation.line === line && citation.column === at + 1;
    if (cells.every(one)) return line;
  } else if (first?.kind === 'SHEET') {
    const { sheet } = first;
    const row = Number(/\d+$/.exec(first.ref)?.[0]);
    const one = ({ citation }: Cell, at: number): boolean =>
      citation.kind === 'SHEET' && citation.sheet === sheet && citation.ref === `${columnLetters(at)}${row}`;
    if (cells.every(one)) return [sheet, row];
  }
  return { cells: cells.map(({ citation }) => citation) };
}

function citationOf(place: PackedPlace | undefined, column: number): Citation {
  if (typeof place === 'number') return { kind: 'LINE', line: place, column: column + 1 };
  if (place && 'cells' in place) {
    const citation = place.cells[column];
    if (citation) return citation;
  } else if (place) return { kind: 'SHEET', sheet: place[0], ref: `${columnLetters(column)}${place[1]}` };
  throw new Error('A cell without a place.');
}
