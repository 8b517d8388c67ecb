import { DocumentMalformed, DocumentBeyondLimits } from '../errors.ts';
import type { Raw, RawCell, RawRow, Source } from '../raw.ts';
import { relations } from './relations.ts';
import { streamXml, type Attributes } from './xml.ts';
import { openPackage } from './zip.ts';

interface Table {
  /** In the order in which they begin, from 1. */
  readonly number: number;
  readonly found: RawRow[];
  /** Rows at the top that repeat on each page. */
  headers: number;
  rows: number;
  /** What is above, by column, for cells that go on with it. */
  above: (RawCell | undefined)[];
  cells: (RawCell | undefined)[];
  origins: number[];
  isHeader: boolean;
  physical: number;
  text: string;
  paragraphs: number;
  span: number;
  merge: 'none' | 'restart' | 'continue';
}

/** Text that is not the document's, or is there twice. */
const skipped = new Set(['del', 'moveFrom', 'Fallback', 'instrText', 'delText', 'rPrChange', 'pPrChange']);

/** Tables of a text document of Office Open XML; nested ones follow the one that they are in. */
export async function* readDocx(source: Source): AsyncGenerator<Raw> {
  const pack = await openPackage(source, source.limits);
  const root = (await relations(pack, '')).find(({ type }) => type === 'officeDocument');
  if (!root) throw new DocumentMalformed('The package has no document.');
  const { maxColumns } = source.limits;
  const open: Table[] = [];
  const done: Table[] = [];
  /** Those of which nothing is to come: the outermost has ended. In the order in which they begin. */
  const whole: Table[] = [];
  let numbers = 0;
  let skipping = 0;
  let inText = false;

  const top = (): Table | undefined => open.at(-1);
  const add = (text: string): void => {
    const table = top();
    if (table && skipping === 0) table.text += text;
  };
  const widthOf = (text: string | undefined): number => {
    const width = Number(text ?? '1');
    if (!(width >= 1)) return 1;
    if (width > maxColumns) throw new DocumentBeyondLimits('maxColumns', maxColumns);
    return Math.floor(width);
  };

  const begin = (name: string, attributes: Attributes): void => {
    if (skipped.has(name)) skipping += 1;
    if (skipping > 0) return;
    if (name === 'tbl') {
      numbers += 1;
      open.push({
        number: numbers,
        found: [],
        headers: 0,
        rows: 0,
        above: [],
        cells: [],
        origins: [],
        isHeader: false,
        physical: 0,
        text: '',
        paragraphs: 0,
        span: 1,
        merge: 'none',
      });
      return;
    }
    const table = top();
    if (!table) return;
    if (name === 'tr') {
      table.cells = [];
      table.origins = [];
      table.isHeader = false;
      table.physical = 0;
    } else if (name === 'gridBefore') {
      const before = Number(attributes['val'] ?? '0');
      if (before > maxColumns) throw new DocumentBeyondLimits('maxColumns', maxColumns);
      table.cells.length = Math.max(0, Math.floor(before));
    } else if (name === 'tblHeader') table.isHeader = attributes['val'] !== '0' && attributes['val'] !== 'false';
    else if (name === 'tc') {
      table.text = '';
      table.paragraphs = 0;
      table.span = 1;
      table.merge = 'none';
      table.physical += 1;
    } else if (name === 'gridSpan') table.span = widthOf(attributes['val']);
    else if (name === 'vMerge') table.merge = attributes['val'] === 'restart' ? 'restart' : 'continue';
    else if (name === 'p') {
      if (table.paragraphs++ > 0) add('\n');
    } else if (name === 't') inText = true;
    else if (name === 'tab') add('\t');
    else if (name === 'br' || name === 'cr') add('\n');
    else if (name === 'noBreakHyphen') add('\u2011');
  };

  const endCell = (table: Table): void => {
    const text = table.text.trim();
    const first = table.cells.length;
    const own: RawCell | undefined = text === '' ? undefined : { text };
    for (let at = first; at < first + table.span; at++) {
      const above = table.above[at];
      const covered = table.merge === 'continue' && above ? above : at > first ? own : null;
      table.cells[at] = covered === null ? own : covered && { ...covered, note: 'MERGED' };
      table.origins[at] = table.physical;
    }
    if (table.cells.length > maxColumns) throw new DocumentBeyondLimits('maxColumns', maxColumns);
  };
  const endRow = (table: Table): void => {
    table.rows += 1;
    if (table.isHeader && table.headers === table.rows - 1) table.headers = table.rows;
    const { cells, origins, rows, number } = table;
    table.above = cells;
    if (cells.every((cell) => cell === undefined)) return;
    table.found.push({
      type: 'row',
      cells,
      cite: (column) => ({
        kind: 'ELEMENT',
        path: `table ${number}, row ${rows}, cell ${origins[column] ?? column + 1}`,
      }),
    });
  };
  const end = (name: string): void => {
    if (skipped.has(name)) skipping -= 1;
    else if (skipping > 0) return;
    const table = top();
    if (!table) return;
    if (name === 't') inText = false;
    else if (name === 'tc') endCell(table);
    else if (name === 'tr') endRow(table);
    else if (name === 'tbl') {
      open.pop();
      done.push(table);
      // An inner one ends first.
      if (open.length === 0)
        whole.push(
          ...done
            .splice(0)
            .filter(({ found }) => found.length > 0)
            .toSorted((a, b) => a.number - b.number),
        );
    }
  };

  const handler = { open: begin, close: end, text: (piece: string): void => void (inText && add(piece)) };
  for await (const tables of streamXml(pack.read(root.part), handler, whole)) {
    for (const table of tables) {
      yield { type: 'table', name: `Table ${table.number}`, headers: table.headers };
      yield* table.found.slice(0, source.maxRows);
      yield { type: 'end' };
    }
  }
}
