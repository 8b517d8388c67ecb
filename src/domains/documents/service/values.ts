import type { CellType } from '#prisma';
import {
  Interpreter,
  noEvidence,
  type Cell,
  type ColumnType,
  type Definition,
} from '../../../integrations/extractors/index.ts';

/** What a cell means: in the database's words. */
export interface Reading {
  readonly type: CellType;
  /** Canonical; null: the text is the value, or there is none. */
  readonly value: string | null;
  /** What it is sorted and compared by, a decimal; null: its text. */
  readonly number: string | null;
}

/** Decimals that the database compares: as long as no number of a document is. */
const decimals = /^-?\d{1,200}(?:\.\d{1,200})?$/;
const dates = /^\d{4}-\d{2}-\d{2}$/;
const instants = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:\d{2})?$/;

const nothing: Reading = { type: 'EMPTY', value: null, number: null };

/**
 * What a canonical value is sorted and compared by; null: it is none of its type. A date with a time and no offset is
 * taken as of UTC.
 */
export function sortNumber(type: ColumnType, value: string): string | null {
  switch (type) {
    case 'INTEGER':
    case 'DECIMAL':
      return decimals.test(value) ? value : null;
    case 'BOOLEAN':
      return value === 'true' ? '1' : value === 'false' ? '0' : null;
    case 'DATE':
      return dates.test(value) ? millisecondsOf(`${value}T00:00:00Z`) : null;
    case 'DATETIME':
      return instants.test(value) ? millisecondsOf(/(?:Z|[+-]\d{2}:\d{2})$/.test(value) ? value : `${value}Z`) : null;
    case 'TEXT':
      return null;
    default:
      return type satisfies never;
  }
}

/** As decimal text; null: there is no such day. */
function millisecondsOf(text: string): string | null {
  const time = Date.parse(text);
  // What is taken for a day of the next month is no day.
  if (Number.isNaN(time) || Number(text.slice(8, 10)) > 31) return null;
  const [year = 0, month = 0, day = 0] = text.slice(0, 10).split('-').map(Number);
  const there = new Date(Date.UTC(2000, month - 1, day));
  there.setUTCFullYear(year, month - 1, day);
  return there.getUTCDate() === day ? String(time) : null;
}

/** Whether values of one type can be compared with those of a column. */
const kindOf: Readonly<Record<ColumnType, string>> = {
  TEXT: 'text',
  INTEGER: 'number',
  DECIMAL: 'number',
  BOOLEAN: 'boolean',
  DATE: 'date',
  DATETIME: 'date',
};
export const fits = (type: CellType, column: CellType): boolean =>
  type !== 'EMPTY' && column !== 'EMPTY' && kindOf[type] === kindOf[column];

/** What an extractor has read, in the database's words. */
export function readingOf(cell: Pick<Cell, 'type' | 'value'>): Reading {
  const { type } = cell;
  if (type === 'EMPTY' || cell.value === null) return { ...nothing, type };
  if (type === 'TEXT') return { type, value: null, number: null };
  const value = String(cell.value);
  return { type, value, number: sortNumber(type, value) };
}

/**
 * Reads what a person wrote into a cell of a column: in canonical form, or as the document's own texts are read by the
 * definition. Nothing but spaces is no value.
 * @returns null when it does not fit the column's type
 */
export function readText(text: string, column: CellType, definition: Definition): Reading | null {
  const bare = text.trim();
  if (bare === '') return nothing;
  if (column === 'TEXT' || column === 'EMPTY') return { type: 'TEXT', value: null, number: null };
  const canon = canonical(bare, column);
  if (canon) return canon;
  const read = new Interpreter(definition).readAs(column, { text: bare }, noEvidence);
  return read && readingOf(read);
}

function canonical(text: string, type: ColumnType): Reading | null {
  const value = type === 'BOOLEAN' ? text.toLowerCase() : text;
  const number = sortNumber(type, value);
  if (number === null) return null;
  if (type === 'INTEGER' && !(/^-?\d+$/.test(value) && Number.isSafeInteger(Number(value)))) return null;
  if (type === 'INTEGER' || type === 'DECIMAL') {
    const plain = value.replace(/^(-?)0+(?=\d)/, '$1');
    return { type, value: /^-0+(?:\.0+)?$/.test(plain) ? plain.slice(1) : plain, number: plain };
  }
  return { type, value, number };
}
