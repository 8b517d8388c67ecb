import { DocumentBeyondLimits } from './errors.ts';
import type { Cell, Column, ColumnType, Extracted, Progress } from './extractor.ts';
import type { Raw, RawCell, RawRow, Source } from './raw.ts';
import { cellOf, Interpreter, noEvidence, wider, type Evidence } from './values/interpret.ts';

/** Rows that are looked at before a table's header and types are told. What comes later can only not fit. */
export const inferenceRows = 500;
/** The same in cells, for tables that are wide. */
const inferenceCells = 50_000;
const batchRows = 500;
const batchCells = 5_000;
const batchChars = 500_000;
/** Longest name of a table or column, characters. */
const maxName = 200;
/** Rows above a header that are no header. */
const maxTitles = 5;
/** A column is of a type when so much of it is; what is not is a mismatch. Below ten values, all of it. */
const share = 0.9;

interface InferredColumn extends Column {
  type: ColumnType;
  readonly name: string;
  readonly declared: boolean;
  readonly required: boolean;
  readonly evidence: Evidence;
}

interface Open {
  readonly head: Extract<Raw, { type: 'table' }>;
  readonly index: number;
  columns: InferredColumn[] | null;
  waiting: RawRow[];
  waitingCells: number;
  rows: number;
  batch: Cell[][];
  batchCells: number;
  batchChars: number;
}

const shown = (raw: RawCell | undefined): string => raw?.text.trim() ?? '';

/** Makes of what a reader found what goes out: names, types, values, batches, within the limits. */
export class Tables {
  readonly #source: Source;
  readonly #interpreter: Interpreter;
  #open: Open | null = null;
  /** What a table on the next page may go on with. */
  #last: { index: number; columns: InferredColumn[]; header: string[][] } | null = null;
  #tables = 0;
  #cells = 0;
  #chars = 0;
  readonly #maxRows: number;

  constructor(source: Source, sampleRows: number | undefined) {
    this.#source = source;
    this.#interpreter = new Interpreter(source.definition);
    this.#maxRows = sampleRows ?? Infinity;
  }

  *take(raw: Raw): Generator<Extracted | Progress> {
    if (!('type' in raw)) yield raw;
    else if (raw.type === 'warning') yield raw;
    else if (raw.type === 'table') this.#begin(raw);
    else if (raw.type === 'row') yield* this.#row(raw);
    else yield* this.#end();
  }

  #begin(head: Extract<Raw, { type: 'table' }>): void {
    const { maxTables } = this.#source.limits;
    if (this.#tables >= maxTables) throw new DocumentBeyondLimits('maxTables', maxTables);
    this.#open = {
      head,
      index: this.#tables++,
      columns: null,
      waiting: [],
      waitingCells: 0,
      rows: 0,
      batch: [],
      batchCells: 0,
      batchChars: 0,
    };
  }

  *#row(row: RawRow): Generator<Extracted> {
    const open = this.#opened();
    const { maxColumns, maxCellChars, maxCells, maxRowChars, maxChars } = this.#source.limits;
    if (row.cells.length > maxColumns) throw new DocumentBeyondLimits('maxColumns', maxColumns);
    let chars = 0;
    for (const cell of row.cells) {
      const length = cell?.text.length ?? 0;
      if (length > maxCellChars) throw new DocumentBeyondLimits('maxCellChars', maxCellChars);
      chars += length;
    }
    if (chars > maxRowChars) throw new DocumentBeyondLimits('maxRowChars', maxRowChars);
    this.#chars += chars;
    if (this.#chars > maxChars) throw new DocumentBeyondLimits('maxChars', maxChars);
    this.#cells += Math.max(row.cells.length, open.columns?.length ?? 0);
    if (this.#cells > maxCells) throw new DocumentBeyondLimits('maxCells', maxCells);
    const kept = storable(row);
    if (open.columns) yield* this.#out(open, kept);
    else {
      open.waiting.push(kept);
      open.waitingCells += row.cells.length;
      if (open.waiting.length >= inferenceRows || open.waitingCells >= inferenceCells) yield* this.#settle(open);
    }
  }

  *#end(): Generator<Extracted> {
    const open = this.#opened();
    if (!open.columns) yield* this.#settle(open);
    yield* this.#flush(open);
    yield { type: 'tableEnd', table: open.index, rows: open.rows, columns: columnsOf(open) };
    this.#open = null;
  }

  #opened(): Open {
    if (!this.#open) throw new Error('A row outside a table.');
    return this.#open;
  }

  /** Enough rows, or all of them: the header and the columns. */
  *#settle(open: Open): Generator<Extracted> {
    const { head, waiting } = open;
    const before = head.continues ? this.#last : null;
    const width = Math.max(0, ...waiting.map(({ cells }) => cells.length));
    const headerRows = before ? repeated(before.header, waiting) : this.#headerRows(head, waiting);
    const body = waiting.slice(headerRows);
    const header = waiting.slice(0, headerRows).map((row) => row.cells.map(shown));
    open.columns = before ? [...before.columns] : this.#infer(width, header, body);
    this.#last = { index: open.index, columns: open.columns, header: before?.header ?? header };
    yield {
      type: 'table',
      index: open.index,
      name: storableName(head.name),
      ...(head.page === undefined ? {} : { page: head.page }),
      ...(head.sheet === undefined ? {} : { sheet: head.sheet }),
      ...(head.box === undefined ? {} : { box: head.box }),
      ...(head.ruled === undefined ? {} : { ruled: head.ruled }),
      ...(before ? { continuedFrom: before.index } : {}),
      headerRows,
      columns: columnsOf(open),
    };
    open.waiting = [];
    for (const row of body) yield* this.#out(open, row);
  }

  *#out(open: Open, row: RawRow): Generator<Extracted> {
    if (open.rows >= this.#maxRows) return;
    const columns = open.columns ?? [];
    while (columns.length < row.cells.length)
      columns.push({
        name: freeName(`Column ${columns.length + 1}`, columns),
        type: 'TEXT',
        declared: false,
        required: false,
        evidence: noEvidence,
      });
    const cells: Cell[] = [];
    for (const [at, column] of columns.entries()) {
      const cell = cellOf(this.#interpreter, row.cells[at], column, row.cite(at));
      if (!column.declared && cell.type !== 'EMPTY' && cell.note !== 'TYPE_MISMATCH')
        column.type = wider(column.type, cell.type) ?? column.type;
      open.batchChars += cell.text.length;
      cells.push(cell);
    }
    open.rows += 1;
    open.batch.push(cells);
    open.batchCells += cells.length;
    if (open.batch.length >= batchRows || open.batchCells >= batchCells || open.batchChars >= batchChars)
      yield* this.#flush(open);
  }

  *#flush(open: Open): Generator<Extracted> {
    if (open.batch.length === 0) return;
    yield { type: 'rows', table: open.index, from: open.rows - open.batch.length, rows: open.batch };
    open.batch = [];
    open.batchCells = 0;
    open.batchChars = 0;
  }

  #infer(width: number, header: readonly string[][], body: readonly RawRow[]): InferredColumn[] {
    const declared = this.#source.definition.columns ?? [];
    const columns: InferredColumn[] = [];
    const values = Array.from({ length: Math.max(width, declared.length) }, (_, at) =>
      body.flatMap(({ cells }) => (shown(cells[at]) === '' ? [] : [cells[at] as RawCell])),
    );
    // Where a column leaves it open, the table may not.
    const all = this.#interpreter.evidence(values.flat());
    for (const [at, cells] of values.entries()) {
      const own = this.#interpreter.evidence(cells);
      const evidence = { decimal: own.decimal ?? all.decimal, order: own.order ?? all.order };
      const said = declared[at];
      columns.push({
        name: said?.name ?? freeName(nameOf(header, at) || `Column ${at + 1}`, columns),
        type: said?.type ?? this.#typeOf(cells, evidence),
        declared: said?.type !== undefined,
        required: said?.required ?? false,
        evidence,
      });
    }
    return columns;
  }

  #typeOf(cells: readonly RawCell[], evidence: Evidence): ColumnType {
    const counts = new Map<ColumnType, number>();
    let typed = 0;
    for (const cell of cells) {
      if (cell.note === 'ERROR_VALUE' || cell.note === 'FORMULA_WITHOUT_VALUE') continue;
      const { type } = this.#interpreter.read(cell, evidence);
      counts.set(type, (counts.get(type) ?? 0) + 1);
      typed += 1;
    }
    if (typed === 0) return 'TEXT';
    const count = (type: ColumnType): number => counts.get(type) ?? 0;
    const enough = (most: number): boolean => most === typed || (typed >= 10 && most >= typed * share);
    const numbers = count('INTEGER') + count('DECIMAL');
    if (enough(numbers)) return count('DECIMAL') > 0 ? 'DECIMAL' : 'INTEGER';
    const dates = count('DATE') + count('DATETIME');
    if (enough(dates)) return count('DATETIME') > 0 ? 'DATETIME' : 'DATE';
    return enough(count('BOOLEAN')) ? 'BOOLEAN' : 'TEXT';
  }

  #headerRows(head: Extract<Raw, { type: 'table' }>, rows: readonly RawRow[]): number {
    const { headerRows } = this.#source.definition;
    if (headerRows !== undefined) return Math.min(headerRows, rows.length);
    if (head.headers !== undefined && head.headers > 0) return Math.min(head.headers, rows.length);
    const width = Math.max(0, ...rows.map(({ cells }) => cells.length));
    // Titles above: one text, alone or over all columns, in a table that has more.
    const above = width > 1 ? rows.slice(0, Math.min(maxTitles, rows.length - 2)) : [];
    const first = above.findIndex((row) => !isTitle(row) && !isGrouping(row));
    const titles = first < 0 ? above.length : first;
    return this.#isHeader(rows, titles, width) ? titles + 1 : 0;
  }

  /** Whether a row reads like the names of what is below it. */
  #isHeader(rows: readonly RawRow[], at: number, width: number): boolean {
    const row = rows[at];
    const below = rows.slice(at + 1, at + 51);
    if (!row || below.length === 0) return false;
    const names = Array.from({ length: width }, (_, column) => shown(row.cells[column]));
    const said = names.filter((name) => name !== '');
    if (said.length * 2 < width || new Set(said).size !== said.length || said.some((name) => name.length > 120))
      return false;
    const typeAt = (one: RawRow, column: number): ColumnType | null => {
      const cell = one.cells[column];
      return shown(cell) === '' ? null : this.#interpreter.read(cell as RawCell, noEvidence).type;
    };
    const isName = (column: number): boolean => {
      const type = typeAt(row, column);
      // No. is a number's name, not a denial.
      return type === null || type === 'TEXT' || type === 'BOOLEAN' || /^(?:19|20)\d{2}$/.test(names[column] ?? '');
    };
    if (!names.every((_, column) => isName(column))) return false;
    // And both are names only beside one that is certainly a text.
    if (!names.some((_, column) => typeAt(row, column) === 'TEXT')) return false;
    const seen = new Set(below.flatMap(({ cells }) => cells.map(shown)));
    return !said.every((name) => seen.has(name));
  }
}

/** Texts that a database can keep: without U+0000, and without halves of characters. */
function storable(row: RawRow): RawRow {
  const bad = (cell: RawCell | undefined): boolean =>
    cell !== undefined && (cell.text.includes('\0') || !cell.text.isWellFormed());
  if (!row.cells.some(bad)) return row;
  const mended = (text: string): string => text.toWellFormed().replaceAll('\0', '\uFFFD');
  const cells = row.cells.map((cell): RawCell | undefined => {
    if (!cell || !bad(cell)) return cell;
    const text = mended(cell.text);
    return { ...cell, text, ...(cell.native?.type === 'TEXT' ? { native: { type: 'TEXT', value: text } } : {}) };
  });
  return { ...row, cells };
}

const columnsOf = (open: Open): Column[] => (open.columns ?? []).map(({ name, type }) => ({ name, type }));

function isTitle(row: RawRow): boolean {
  const said = row.cells.filter((cell) => shown(cell) !== '');
  return said.length === 0 || said.slice(1).every((cell) => cell?.note === 'MERGED' && shown(cell) === shown(said[0]));
}

/** A name over several columns, each of which has one of its own below. */
const isGrouping = ({ cells }: RawRow): boolean =>
  cells.some(
    (cell, at) => cell?.note === 'MERGED' && at > 0 && shown(cell) !== '' && shown(cell) === shown(cells[at - 1]),
  );

const storableName = (text: string): string => text.slice(0, maxName).toWellFormed().replaceAll('\0', '\uFFFD');

/** Names of several header rows are one after the other; a title over everything is no part of a name. */
function nameOf(header: readonly string[][], at: number): string {
  const parts: string[] = [];
  for (const row of header) {
    const said = new Set(row.filter((text) => text !== ''));
    if (header.length > 1 && row.length > 1 && said.size === 1 && row !== header.at(-1)) continue;
    const part = (row[at] ?? '').replaceAll(/\s+/g, ' ');
    if (part !== '' && part !== parts.at(-1)) parts.push(part);
  }
  return storableName(parts.join(' '));
}

function freeName(name: string, taken: readonly Column[]): string {
  const names = new Set(taken.map((column) => column.name));
  let free = name;
  for (let number = 2; names.has(free); number++) free = `${name} (${number})`;
  return free;
}

/** How many of the first rows say the header of the table before once more. */
function repeated(header: readonly string[][], rows: readonly RawRow[]): number {
  const same = header.length > 0 && header.every((row, at) => row.join('\0') === rows[at]?.cells.map(shown).join('\0'));
  return same ? header.length : 0;
}
