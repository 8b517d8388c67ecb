import type { Cell, CellNote, Citation, ColumnType, Definition } from '../extractor.ts';
import type { RawCell } from '../raw.ts';
import { readBoolean } from './boolean.ts';
import { dateReader, offsetAt, type DateReader, type Order } from './date.ts';
import { decimalOf, readNumber } from './number.ts';

/** How sure the reading of a text is, by how it came about. The product with the place is a cell's confidence. */
export const confidences = {
  /** The file says it, or there is one reading only. */
  certain: 1,
  /** Other cells of the column, or table, decide between two readings. */
  byOthers: 0.9,
  /** Two readings, and nothing decides. */
  ambiguous: 0.6,
  /** Nobody has computed it, or it is an error of the spreadsheet, or a required value is missing. */
  absent: 0.5,
  /** It does not fit its column. */
  mismatch: 0.4,
} as const;

/** What the cells of a column say about the two things that a single one may leave open. */
export interface Evidence {
  readonly decimal: '.' | ',' | null;
  readonly order: Order | null;
}

export const noEvidence: Evidence = { decimal: null, order: null };

type Value = string | number | boolean;
interface Reading {
  readonly type: ColumnType;
  readonly value: Value;
  readonly confidence: number;
  readonly note?: CellNote;
}

const textOf = (raw: RawCell): Reading => ({ type: 'TEXT', value: raw.text, confidence: confidences.certain });

/** An integer when it can be one without loss, else a decimal. */
function numberOf(value: string): { type: 'INTEGER' | 'DECIMAL'; value: Value } {
  if (/^-?\d{1,16}$/.test(value) && Number.isSafeInteger(Number(value)))
    return { type: 'INTEGER', value: Number(value) };
  return { type: 'DECIMAL', value };
}

/** Reads what cells mean, after one definition. */
export class Interpreter {
  readonly #dates: DateReader;
  readonly #decimal: '.' | ',' | null;
  readonly #timeZone: string | undefined;

  constructor(definition: Definition) {
    const { locale, dateFormats, timeZone } = definition;
    this.#dates = dateReader({ locale, formats: dateFormats, timeZone });
    this.#decimal = decimalOf(locale);
    this.#timeZone = timeZone;
  }

  /** What the texts say together; what contradicts itself says nothing. */
  evidence(cells: readonly RawCell[]): Evidence {
    const decimals = new Set<string>();
    const orders = new Set<string>();
    for (const { text, native } of cells) {
      if (native) continue;
      const decimal = this.#decimal ? null : readNumber(text, null)?.decimal;
      if (decimal) decimals.add(decimal);
      const order = this.#dates.order ? null : this.#dates.read(text, null)?.order;
      if (order) orders.add(order);
    }
    return {
      decimal: decimals.size === 1 ? ([...decimals][0] as '.' | ',') : null,
      order: orders.size === 1 ? ([...orders][0] as Order) : null,
    };
  }

  /** The best type of a cell by itself. */
  read(raw: RawCell, evidence: Evidence): Reading {
    if (raw.native) return { ...this.#zoned(raw.native), confidence: confidences.certain };
    const boolean = readBoolean(raw.text);
    if (boolean !== null) return { type: 'BOOLEAN', value: boolean, confidence: confidences.certain };
    return this.#number(raw.text, evidence, false) ?? this.#date(raw.text, evidence) ?? textOf(raw);
  }

  /** As the column wants it. Null: it does not fit. */
  readAs(type: ColumnType, raw: RawCell, evidence: Evidence): Reading | null {
    if (type === 'TEXT') return textOf(raw);
    const native = raw.native && raw.native.type !== 'TEXT' ? this.#zoned(raw.native) : undefined;
    if (native) {
      const fitted = fit(type, native.type, native.value);
      return fitted && { ...fitted, confidence: confidences.certain };
    }
    if (type === 'BOOLEAN') {
      const value = readBoolean(raw.text, true);
      return value === null ? null : { type, value, confidence: confidences.certain };
    }
    const reading =
      type === 'INTEGER' || type === 'DECIMAL'
        ? this.#number(raw.text, evidence, true)
        : this.#date(raw.text, evidence);
    const fitted = reading && fit(type, reading.type, reading.value);
    return fitted ? { ...reading, ...fitted } : null;
  }

  #zoned(native: { type: ColumnType; value: Value }): { type: ColumnType; value: Value } {
    const zone = this.#timeZone;
    if (native.type !== 'DATETIME' || zone === undefined || /(?:Z|[+-]\d{2}:\d{2})$/.test(String(native.value)))
      return native;
    return { type: 'DATETIME', value: `${native.value}${offsetAt(String(native.value), zone)}` };
  }

  #number(text: string, evidence: Evidence, declared: boolean): Reading | null {
    const alone = readNumber(text, this.#decimal, declared);
    if (!alone) return null;
    if (!alone.ambiguous) return { ...numberOf(alone.value), confidence: confidences.certain };
    const known = evidence.decimal && readNumber(text, evidence.decimal, declared);
    if (known) return { ...numberOf(known.value), confidence: confidences.byOthers };
    return { ...numberOf(alone.value), confidence: confidences.ambiguous, note: 'AMBIGUOUS_NUMBER' };
  }

  #date(text: string, evidence: Evidence): Reading | null {
    const alone = this.#dates.read(text, null);
    if (!alone) return null;
    const { type, value } = alone;
    if (!alone.ambiguous) return { type, value, confidence: confidences.certain };
    const known = evidence.order && this.#dates.read(text, evidence.order);
    if (known && !known.ambiguous) return { type, value: known.value, confidence: confidences.byOthers };
    return { type, value: known?.value ?? value, confidence: confidences.ambiguous, note: 'AMBIGUOUS_DATE' };
  }
}

/** A value in another type, where that loses nothing. */
function fit(want: ColumnType, type: ColumnType, value: Value): { type: ColumnType; value: Value } | null {
  if (want === type) return { type, value };
  if (want === 'DECIMAL' && type === 'INTEGER') return { type: want, value: String(value) };
  if (want === 'INTEGER' && type === 'DECIMAL') {
    const whole = /^(-?\d{1,16})(?:\.0+)?$/.exec(String(value))?.[1];
    return whole !== undefined && Number.isSafeInteger(Number(whole)) ? { type: want, value: Number(whole) } : null;
  }
  if (want === 'BOOLEAN' && (value === 0 || value === 1)) return { type: want, value: value === 1 };
  if (want === 'DATETIME' && type === 'DATE') return { type: want, value: `${value}T00:00:00` };
  if (want === 'DATE' && type === 'DATETIME') {
    const date = /^(\d{4}-\d{2}-\d{2})T00:00:00/.exec(String(value))?.[1];
    return date === undefined ? null : { type: want, value: date };
  }
  return null;
}

/** The type that has the values of both; null: only text has. */
export function wider(a: ColumnType, b: ColumnType): ColumnType | null {
  if (a === b) return a;
  const pair = new Set([a, b]);
  if (pair.has('INTEGER') && pair.has('DECIMAL')) return 'DECIMAL';
  if (pair.has('DATE') && pair.has('DATETIME')) return 'DATETIME';
  return null;
}

/** A cell as it goes out. `type` is the column's; `declared`: by the definition, so that nothing is wider. */
export function cellOf(
  interpreter: Interpreter,
  raw: RawCell | undefined,
  column: {
    readonly type: ColumnType;
    readonly declared: boolean;
    readonly required: boolean;
    readonly evidence: Evidence;
  },
  citation: Citation,
): Cell {
  const place = raw?.place ?? 1;
  if (raw?.note === 'FORMULA_WITHOUT_VALUE' || raw?.note === 'ERROR_VALUE')
    return {
      text: raw.text,
      value: null,
      type: 'EMPTY',
      confidence: confidences.absent * place,
      citation,
      note: raw.note,
    };
  if (!raw || (raw.text.trim() === '' && raw.native === undefined)) {
    const missing = column.required
      ? { confidence: confidences.absent * place, note: 'MISSING' as const }
      : { confidence: place };
    return { text: raw?.text ?? '', value: null, type: 'EMPTY', citation, ...missing };
  }
  let reading = interpreter.readAs(column.type, raw, column.evidence);
  if (!reading && !column.declared) {
    // A column of whole numbers that goes on with fractions is one of decimals.
    const alone = interpreter.read(raw, column.evidence);
    if (wider(column.type, alone.type) !== null) reading = alone;
  }
  reading ??= { type: 'TEXT', value: raw.text, confidence: confidences.mismatch, note: 'TYPE_MISMATCH' };
  const note = reading.note ?? raw.note ?? (place < confidences.byOthers ? ('UNCERTAIN_PLACE' as const) : undefined);
  return {
    text: raw.text,
    value: reading.value,
    type: reading.type,
    confidence: Math.round(reading.confidence * place * 1000) / 1000,
    citation,
    ...(note === undefined ? {} : { note }),
  };
}
