import { read, set_cptable, type CellObject, type WorkBook } from '@e965/xlsx';
import * as codePages from '@e965/xlsx/dist/cpexcel.full.mjs';
import { DocumentEncrypted, DocumentMalformed, DocumentBeyondLimits } from '../errors.ts';
import { columnLetters, readBytes, type Raw, type RawCell, type Source } from '../raw.ts';
import { isEmptyRow, Merges } from './merges.ts';
import { kindOfCode, numberCell } from './serial.ts';
import { chosen } from './sheets.ts';

// Before Excel 97 texts were in the code page of their country.
set_cptable(codePages);

const protectedBook = /password|encrypt/i;

/** Workbooks of Excel 97 and before, by SheetJS: whole, in memory. */
export async function* readXls(source: Source): AsyncGenerator<Raw> {
  const book = openBook(await readBytes(source), source);
  const epoch1904 = book.Workbook?.WBProps?.date1904 === true;
  const entries = book.SheetNames.map((name, at) => ({
    name,
    hidden: (book.Workbook?.Sheets?.[at]?.Hidden ?? 0) !== 0,
  }));
  const { sheets, warnings } = chosen(entries, source.definition);
  yield* warnings;
  if (sheets.length > source.limits.maxPages) throw new DocumentBeyondLimits('maxPages', source.limits.maxPages);
  for (const { name } of sheets) {
    const sheet = book.Sheets[name];
    const rows = (sheet?.['!data'] ?? []) as (CellObject | undefined)[][];
    const merges = new Merges(
      (sheet?.['!merges'] ?? []).map(({ s, e }) => ({ left: s.c, top: s.r, right: e.c, bottom: e.r })),
    );
    let begun = 0;
    for (let at = 0; at < rows.length && begun < source.maxRows; at++) {
      const cells = Array.from(rows[at] ?? [], (cell) => cellOf(cell, epoch1904));
      merges.fill(at, cells);
      while (cells.length > 0 && cells.at(-1) === undefined) cells.pop();
      if (isEmptyRow(cells)) continue;
      if (begun++ === 0) yield { type: 'table', name, sheet: name };
      yield {
        type: 'row',
        cells,
        cite: (column) => ({ kind: 'SHEET', sheet: name, ref: `${columnLetters(column)}${at + 1}` }),
      };
    }
    if (begun > 0) yield { type: 'end' };
  }
}

function openBook(bytes: Buffer, source: Source): WorkBook {
  try {
    return read(bytes, {
      type: 'buffer',
      dense: true,
      cellNF: true,
      cellText: false,
      cellHTML: false,
      cellFormula: true,
      ...(source.maxRows === Infinity ? {} : { sheetRows: source.maxRows }),
    });
  } catch (error) {
    if (error instanceof Error && protectedBook.test(error.message)) throw new DocumentEncrypted();
    throw new DocumentMalformed('The workbook is damaged.');
  }
}

function cellOf(cell: CellObject | undefined, epoch1904: boolean): RawCell | undefined {
  if (!cell) return undefined;
  const { t: type, v: value } = cell;
  if (type === 's' && typeof value === 'string')
    return value === '' ? undefined : { text: value, native: { type: 'TEXT', value } };
  if (type === 'b') return { text: value ? 'TRUE' : 'FALSE', native: { type: 'BOOLEAN', value: Boolean(value) } };
  if (type === 'n' && typeof value === 'number')
    return numberCell(value, kindOfCode(typeof cell.z === 'string' ? cell.z : 'General'), epoch1904);
  if (type === 'e') return { text: errorNames.get(Number(value)) ?? '#ERROR!', note: 'ERROR_VALUE' };
  return cell.f === undefined ? undefined : { text: `=${cell.f}`, note: 'FORMULA_WITHOUT_VALUE' };
}

/** @see [MS-XLS] 2.5.10 */
const errorNames = new Map([
  [0x00, '#NULL!'],
  [0x07, '#DIV/0!'],
  [0x0f, '#VALUE!'],
  [0x17, '#REF!'],
  [0x1d, '#NAME?'],
  [0x24, '#NUM!'],
  [0x2a, '#N/A'],
]);
