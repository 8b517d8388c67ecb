import { Readable } from 'node:stream';
import { stringify } from 'csv-stringify';
import { ZipFile } from 'yazl';
import type { CellType } from '#prisma';
import { ExportImpossible } from '../errors.ts';
import type { ExportOptions } from '../model.ts';

// Tables as files, row by row: what is in memory is a page of rows, however long a table is.

export interface WrittenCell {
  readonly type: CellType;
  readonly text: string;
  readonly value: string | null;
}

/** A table that is written. Cells of a row are by column; a hole is a cell that the document does not have. */
export interface WrittenTable {
  readonly name: string;
  readonly columns: readonly { readonly name: string; readonly type: CellType }[];
  readonly rowCount: number;
  /** Rows in order, from one of them to before another. To be read once. */
  readonly rows: (from: number, to: number) => AsyncIterable<readonly (WrittenCell | undefined)[]>;
}

/** What a cell is written as. */
function textOf(cell: WrittenCell | undefined, { content }: ExportOptions): string {
  if (!cell) return '';
  return content === 'TEXTS' || cell.type === 'TEXT' ? cell.text : (cell.value ?? cell.text);
}

/** What programs take for the beginning of a formula. @see https://owasp.org/www-community/attacks/CSV_Injection */
const formulaStart = /^[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/;
/** A sign, digits and their separators compute nothing. */
const plainNumber = /^[+-]?\d+(?:[.,]\d+)*$/;

/** A text that no spreadsheet takes for a formula: with an apostrophe before it where one could. */
export const withoutFormula = (text: string): string =>
  formulaStart.test(text) && !plainNumber.test(text) ? `'${text}` : text;

/** @see https://www.rfc-editor.org/rfc/rfc4180 */
export function csv(table: WrittenTable, options: ExportOptions): Readable {
  const guarded = options.formulas === 'ESCAPE' ? withoutFormula : (text: string) => text;
  const records = async function* () {
    yield table.columns.map(({ name }) => guarded(name));
    for await (const cells of table.rows(0, table.rowCount))
      yield table.columns.map((_, at) => guarded(textOf(cells[at], options)));
  };
  const out = stringify({
    record_delimiter: '\r\n',
    bom: options.byteOrderMark,
    quoted_match: /[\r\n]|^\s|\s$/,
    // An empty line would be no record.
    quoted_empty: table.columns.length < 2,
  });
  return through(records(), out);
}

/** An object a row, with the names of the columns; a name that comes again has its number after it. */
export function jsonLines(table: WrittenTable, options: ExportOptions): Readable {
  const names = unique(
    table.columns.map(({ name }) => name),
    (name, number) => `${name} (${number})`,
  ).map((name) => JSON.stringify(name));
  const lines = async function* () {
    for await (const cells of table.rows(0, table.rowCount))
      yield `{${names.map((name, at) => `${name}:${jsonOf(cells[at], options)}`).join(',')}}\n`;
  };
  return Readable.from(chunked(lines()), { objectMode: false });
}

function jsonOf(cell: WrittenCell | undefined, { content }: ExportOptions): string {
  if (!cell || cell.type === 'EMPTY') return cell?.text ? JSON.stringify(cell.text) : 'null';
  const { type, value, text } = cell;
  if (content === 'TEXTS' || type === 'TEXT' || value === null) return JSON.stringify(text);
  // All digits: a canonical decimal is a number of JSON.
  if ((type === 'INTEGER' || type === 'DECIMAL') && /^-?(?:0|[1-9]\d*)(?:\.\d+)?$/.test(value)) return value;
  return type === 'BOOLEAN' ? value : JSON.stringify(value);
}

/** Each name once, whatever its case. */
function unique(names: readonly string[], numbered: (name: string, number: number) => string): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    let free = name;
    for (let number = 2; taken.has(free.toLowerCase()); number++) free = numbered(name, number);
    taken.add(free.toLowerCase());
    return free;
  });
}

/** A file of each table, in a ZIP archive. */
export function zipped(files: readonly { readonly name: string; readonly open: () => Readable }[]): Readable {
  const names = unique(
    files.map(({ name }) => name),
    (name, number) => name.replace(/(\.\w+)?$/, ` (${number})$1`),
  );
  return archive(files.map(({ open }, at) => ({ path: names[at] ?? '', open })));
}

/** Rows of a sheet with the one of the headers. @see https://support.microsoft.com/office/1672b34d-7043-467e-8e27-269d656771c3 */
const maxSheetRows = 1_048_576;
const maxSheetColumns = 16_384;
/** Characters of a cell, in units of UTF-16. */
const maxCellChars = 32_767;
const maxSheetName = 31;

/**
 * A sheet of each table; one that has more rows than a sheet goes on in the next one. Texts are never formulas.
 * @throws {ExportImpossible} from the stream: a text that is longer than a cell holds
 */
export function xlsx(tables: readonly WrittenTable[], options: ExportOptions): Readable {
  const wide = tables.find(({ columns }) => columns.length > maxSheetColumns);
  if (wide) throw new ExportImpossible(`A sheet of XLSX holds ${maxSheetColumns} columns.`);
  const parts = tables.flatMap((table) =>
    Array.from({ length: Math.max(1, Math.ceil(table.rowCount / (maxSheetRows - 1))) }, (_, at) => ({
      table,
      from: at * (maxSheetRows - 1),
      to: Math.min(table.rowCount, (at + 1) * (maxSheetRows - 1)),
    })),
  );
  const names = unique(
    parts.map(({ table }) => sheetName(table.name)),
    (name, number) => `${name.slice(0, maxSheetName - ` (${number})`.length).toWellFormed()} (${number})`,
  );
  const main = 'application/vnd.openxmlformats-officedocument.spreadsheetml';
  const relationships = 'http://schemas.openxmlformats.org/officeDocument/2006/relationships';
  const packaged = 'http://schemas.openxmlformats.org/package/2006';
  const fixed: Readonly<Record<string, string>> = {
    '[Content_Types].xml':
      `<Types xmlns="${packaged}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
      `<Override PartName="/xl/workbook.xml" ContentType="${main}.sheet.main+xml"/><Override PartName="/xl/styles.xml" ContentType="${main}.styles+xml"/>` +
      `${parts.map((_, at) => `<Override PartName="/xl/worksheets/sheet${at + 1}.xml" ContentType="${main}.worksheet+xml"/>`).join('')}</Types>`,
    '_rels/.rels': `<Relationships xmlns="${packaged}/relationships"><Relationship Id="rId1" Type="${relationships}/officeDocument" Target="xl/workbook.xml"/></Relationships>`,
    'xl/workbook.xml':
      `<workbook xmlns="${sheetNamespace}" xmlns:r="${relationships}"><sheets>` +
      `${names.map((name, at) => `<sheet name="${escaped(name)}" sheetId="${at + 1}" r:id="rId${at + 1}"/>`).join('')}</sheets></workbook>`,
    'xl/_rels/workbook.xml.rels':
      `<Relationships xmlns="${packaged}/relationships">` +
      parts
        .map(
          (_, at) =>
            `<Relationship Id="rId${at + 1}" Type="${relationships}/worksheet" Target="worksheets/sheet${at + 1}.xml"/>`,
        )
        .join('') +
      `<Relationship Id="rId${parts.length + 1}" Type="${relationships}/styles" Target="styles.xml"/></Relationships>`,
    'xl/styles.xml': styles,
  };
  return archive([
    ...Object.entries(fixed).map(([path, xml]) => ({ path, open: () => Readable.from([Buffer.from(xmlHead + xml)]) })),
    ...parts.map(({ table, from, to }, at) => ({
      path: `xl/worksheets/sheet${at + 1}.xml`,
      open: () => Readable.from(chunked(sheet(table, from, to, options)), { objectMode: false }),
    })),
  ]);
}

const xmlHead = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n';
const sheetNamespace = 'http://schemas.openxmlformats.org/spreadsheetml/2006/main';
/** Formats of cells: as it is, a date, a date with a time, a header. */
const styles =
  `<styleSheet xmlns="${sheetNamespace}"><numFmts count="2"><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/><numFmt numFmtId="165" formatCode="yyyy\\-mm\\-dd\\ hh:mm:ss"/></numFmts>` +
  '<fonts count="2"><font/><font><b/></font></fonts><fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>' +
  '<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>' +
  '<cellXfs count="4"><xf/><xf numFmtId="164" applyNumberFormat="1"/><xf numFmtId="165" applyNumberFormat="1"/><xf fontId="1" applyFont="1"/></cellXfs></styleSheet>';
const dateStyle = 1;
const instantStyle = 2;
const headerStyle = 3;

/** A name as a sheet may have: so long, without some characters, not empty, not the one that is taken. */
function sheetName(name: string): string {
  const bare = name
    .replaceAll(/[[\]:*?/\\\p{Cc}]/gu, ' ')
    .slice(0, maxSheetName)
    .toWellFormed()
    .replaceAll(/^'+|'+$/g, '')
    .trim();
  return bare === '' || bare.toLowerCase() === 'history' ? `Table ${bare}`.trim() : bare;
}

async function* sheet(table: WrittenTable, from: number, to: number, options: ExportOptions): AsyncGenerator<string> {
  const letters = table.columns.map((_, at) => lettersOf(at));
  yield `${xmlHead}<worksheet xmlns="${sheetNamespace}"><sheetData><row r="1">${table.columns
    .map(({ name }, at) => inline(name, `${letters[at]}1`, headerStyle))
    .join('')}</row>`;
  let number = 1;
  for await (const cells of table.rows(from, to)) {
    number++;
    const written = letters.map((letter, at) => {
      const cell = cells[at];
      try {
        return cell ? cellOf(cell, `${letter}${number}`, options) : '';
      } catch (error) {
        if (!(error instanceof ExportImpossible)) throw error;
        throw new ExportImpossible(
          `Row ${from + number - 2}, column ${at} of the table ${table.name.slice(0, 100)}: ${error.message}`,
        );
      }
    });
    yield `<row r="${number}">${written.join('')}</row>`;
  }
  yield '</sheetData></worksheet>';
}

function cellOf(cell: WrittenCell, at: string, options: ExportOptions): string {
  const { type, value } = cell;
  if (options.content === 'VALUES' && value !== null) {
    // A spreadsheet keeps 15 digits: longer numbers stay texts, with all of them.
    if ((type === 'INTEGER' || type === 'DECIMAL') && value.replace(/^-?0*\.?0*/, '').replace('.', '').length <= 15)
      return `<c r="${at}"><v>${value}</v></c>`;
    if (type === 'BOOLEAN') return `<c r="${at}" t="b"><v>${value === 'true' ? 1 : 0}</v></c>`;
    const serial = type === 'DATE' || type === 'DATETIME' ? serialOf(value) : null;
    if (serial !== null) return `<c r="${at}" s="${type === 'DATE' ? dateStyle : instantStyle}"><v>${serial}</v></c>`;
  }
  const shown = textOf(cell, options);
  return shown === '' ? '' : inline(shown, at);
}

/** Days since 1899-12-30; null: a spreadsheet has no such date, or no place for its offset. */
function serialOf(value: string): number | null {
  const local = /^\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}:\d{2}(?:\.\d+)?)?$/.test(value);
  const time = local ? Date.parse(value.length === 10 ? value : `${value}Z`) : NaN;
  // Before March 1900 spreadsheets count a day that there was not.
  return time >= Date.UTC(1900, 2, 1) ? time / 86_400_000 + 25_569 : null;
}

function inline(text: string, at: string, style = 0): string {
  if (text.length > maxCellChars)
    throw new ExportImpossible(`A cell of XLSX holds ${maxCellChars} characters, not ${text.length}.`);
  return `<c r="${at}" t="inlineStr"${style ? ` s="${style}"` : ''}><is><t xml:space="preserve">${escaped(text)}</t></is></c>`;
}

/** Characters that XML does not hold are written as `_x000D_`, and what looks like that with its `_` so. @see ISO/IEC 29500-1, 22.9.2.19 */
const escaped = (text: string): string =>
  text
    .replaceAll(/_(?=x[\dA-Fa-f]{4}_)/g, '_x005F_')
    .replaceAll(/(?![\t\n])\p{Cc}|[\uFFFE\uFFFF]/gu, (one) => {
      // The upper control characters are characters of XML.
      const code = one.charCodeAt(0);
      return code >= 0x7f && code < 0xa0 ? one : `_x${code.toString(16).toUpperCase().padStart(4, '0')}_`;
    })
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');

/** A, B, …, Z, AA, … */
function lettersOf(column: number): string {
  let letters = '';
  for (let rest = column; rest >= 0; rest = Math.floor(rest / 26) - 1)
    letters = String.fromCharCode(65 + (rest % 26)) + letters;
  return letters;
}

/** Small texts as larger bytes. */
async function* chunked(texts: AsyncIterable<string>): AsyncGenerator<Buffer> {
  let held: string[] = [];
  let chars = 0;
  for await (const text of texts) {
    held.push(text);
    chars += text.length;
    if (chars < 65_536) continue;
    yield Buffer.from(held.join(''));
    held = [];
    chars = 0;
  }
  if (chars > 0) yield Buffer.from(held.join(''));
}

/** A source through a transform, as one stream: it fails with the source, and ends it when it is destroyed. */
function through(source: AsyncGenerator<string[]>, out: ReturnType<typeof stringify>): Readable {
  const from = Readable.from(source);
  from.once('error', (error) => out.destroy(error));
  out.once('close', () => from.destroy());
  return from.pipe(out);
}

/** Entries of a ZIP archive, opened one after the other. */
function archive(entries: readonly { readonly path: string; readonly open: () => Readable }[]): Readable {
  const zip = new ZipFile();
  const out = zip.outputStream as Readable;
  let current: Readable | null = null;
  zip.on('error', (error: Error) => out.destroy(error));
  out.once('close', () => current?.destroy());
  for (const { path, open } of entries) {
    zip.addReadStreamLazy(path, { mtime: epoch }, (give) => {
      if (out.destroyed) return;
      current = open();
      current.once('error', (error) => out.destroy(error));
      give(null, current);
    });
  }
  zip.end();
  return out;
}

/** The same tables make the same bytes. */
const epoch = new Date(Date.UTC(1980, 0, 1, 12));
