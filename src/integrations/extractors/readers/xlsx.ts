import { DocumentMalformed, DocumentBeyondLimits } from '../errors.ts';
import { columnLetters, type Raw, type RawCell, type Source } from '../raw.ts';
import { areaOf, columnOf, isEmptyRow, Merges, type Merge } from './merges.ts';
import { relations, type Relation } from './relations.ts';
import { kindOfCode, kindOfId, numberCell, type Kind } from './serial.ts';
import { chosen, type SheetEntry } from './sheets.ts';
import { readXml, streamXml, type Attributes, type Handler } from './xml.ts';
import { openPackage, type Package } from './zip.ts';

// Excel's own bounds.
const maxRow = 1_048_576;
const maxColumn = 16_384;
const maxMerges = 200_000;
/** Excel's own is 31 characters. Each cell's citation repeats it. */
const maxSheetName = 255;
/** Of all shared strings together: they are the part that is kept in memory. */
const maxSharedChars = 134_217_728;

interface Sheet extends SheetEntry {
  readonly part: string;
}

interface Book {
  readonly sheets: readonly Sheet[];
  readonly epoch1904: boolean;
  readonly kinds: readonly Kind[];
  readonly strings: readonly string[];
}

/** Workbooks of Office Open XML, transitional or strict. @see https://ecma-international.org/publications-and-standards/standards/ecma-376/ */
export async function* readXlsx(source: Source): AsyncGenerator<Raw> {
  const pack = await openPackage(source, source.limits);
  const { sheets, ...book } = await openBook(pack, source);
  const { sheets: wanted, warnings } = chosen(sheets, source.definition);
  yield* warnings;
  if (wanted.length > source.limits.maxPages) throw new DocumentBeyondLimits('maxPages', source.limits.maxPages);
  for (const sheet of wanted) yield* readSheet(pack, sheet, book, source.maxRows);
}

async function openBook(pack: Package, source: Source): Promise<Book> {
  const root = (await relations(pack, '')).find(({ type }) => type === 'officeDocument');
  if (!root) throw new DocumentMalformed('The package has no document.');
  const related = await relations(pack, root.part);
  const ofType = (type: string): Relation | undefined => related.find((one) => one.type === type);
  const sheets: Sheet[] = [];
  let epoch1904 = false;
  const open = (name: string, attributes: Attributes): void => {
    if (name === 'workbookPr') epoch1904 = isTrue(attributes['date1904']);
    if (name !== 'sheet') return;
    const relation = related.find(({ id }) => id === attributes['id']);
    // Charts and macros have sheets, too.
    if (relation?.type !== 'worksheet') return;
    const state = attributes['state'] ?? 'visible';
    sheets.push({
      name: (attributes['name'] ?? '').slice(0, maxSheetName),
      part: relation.part,
      hidden: state !== 'visible',
    });
    if (sheets.length > 10_000) throw new DocumentBeyondLimits('maxPages', source.limits.maxPages);
  };
  await readXml(pack.read(root.part), { open, close: () => undefined, text: () => undefined });
  const styles = ofType('styles');
  const strings = ofType('sharedStrings');
  return {
    sheets,
    epoch1904,
    kinds: styles && pack.has(styles.part) ? await readStyles(pack, styles.part) : [],
    strings:
      strings && pack.has(strings.part) ? await readStrings(pack, strings.part, source.limits.maxUnpackedBytes) : [],
  };
}

const isTrue = (text: string | undefined): boolean => text === '1' || text === 'true';

/** What each cell format makes of a number. */
async function readStyles(pack: Package, part: string): Promise<Kind[]> {
  const codes = new Map<number, Kind>();
  const kinds: Kind[] = [];
  let inside = false;
  const open = (name: string, attributes: Attributes): void => {
    if (name === 'numFmt') codes.set(Number(attributes['numFmtId']), kindOfCode(attributes['formatCode'] ?? ''));
    else if (name === 'cellXfs') inside = true;
    else if (name === 'xf' && inside) {
      const id = Number(attributes['numFmtId'] ?? '0');
      kinds.push(codes.get(id) ?? kindOfId(id));
    }
  };
  const close = (name: string): void => {
    if (name === 'cellXfs') inside = false;
  };
  await readXml(pack.read(part), { open, close, text: () => undefined });
  return kinds;
}

/** `_x000D_` is how a character that XML cannot have is written. */
const unescaped = (text: string): string =>
  text.includes('_x')
    ? text.replaceAll(/_x([0-9A-Fa-f]{4})_/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    : text;

async function readStrings(pack: Package, part: string, most: number): Promise<string[]> {
  const strings: string[] = [];
  let chars = 0;
  let text = '';
  let within = false;
  let phonetic = false;
  await readXml(pack.read(part), {
    open(name) {
      if (name === 'si') text = '';
      else if (name === 't') within = !phonetic;
      else if (name === 'rPh') phonetic = true;
    },
    close(name) {
      if (name === 't') within = false;
      else if (name === 'rPh') phonetic = false;
      else if (name === 'si') {
        // Room for itself beside its characters.
        chars += text.length + 16;
        if (chars > maxSharedChars) throw new DocumentBeyondLimits('maxUnpackedBytes', most);
        strings.push(unescaped(text));
      }
    },
    text(piece) {
      if (within) text += piece;
    },
  });
  return strings;
}

/** Merged areas stand after the rows that they are about: they are looked for first, without reading anything else. */
async function mergesOf(pack: Package, part: string): Promise<Merge[]> {
  const merges: Merge[] = [];
  const decoder = new TextDecoder('latin1'); // what is looked for is ASCII
  let rest = '';
  for await (const chunk of pack.read(part)) {
    const text = rest + decoder.decode(chunk, { stream: true });
    let end = 0;
    for (const found of text.matchAll(
      /<(?:\w+:)?mergeCell\s[^<>]{0,200}?\bref\s*=\s*["']([^"']{1,40})["'][^<>]{0,200}>/g,
    )) {
      end = found.index + found[0].length;
      const area = areaOf(found[1] ?? '');
      if (area) merges.push(area);
      if (merges.length > maxMerges) throw new DocumentMalformed('The sheet has too many merged cells.');
    }
    rest = text.slice(Math.max(end, text.length - 500));
  }
  return merges;
}

async function* readSheet(
  pack: Package,
  sheet: Sheet,
  book: Omit<Book, 'sheets'>,
  maxRows: number,
): AsyncGenerator<Raw> {
  const merges = new Merges(await mergesOf(pack, sheet.part));
  const found: Raw[] = [];
  let cells: (RawCell | undefined)[] = [];
  let row = -1;
  let column = -1;
  let type = 'n';
  let style = 0;
  let value = '';
  let formula: string | null = null;
  let inline = '';
  let has = false;
  let within: 'v' | 'f' | 't' | null = null;
  let phonetic = false;
  let rows = 0;

  const begin = (attributes: Attributes): void => {
    const at = /^([A-Z]{1,3})(\d{1,7})$/.exec(attributes['r'] ?? '');
    const next = at ? columnOf(at[1] ?? '') : column + 1;
    if (next <= column || next >= maxColumn || (at && Number(at[2]) !== row + 1))
      throw new DocumentMalformed('A cell is not where it should be.');
    column = next;
    type = attributes['t'] ?? 'n';
    style = Number(attributes['s'] ?? '0');
    value = '';
    inline = '';
    formula = null;
    has = false;
  };
  const cell = (): RawCell | undefined => {
    if (type === 'inlineStr') return inline === '' ? undefined : textCell(unescaped(inline));
    if (!has || (value === '' && type !== 'str'))
      return formula === null ? undefined : { text: `=${formula}`, note: 'FORMULA_WITHOUT_VALUE' };
    if (type === 's') {
      const text = book.strings[Number(value)];
      if (text === undefined) throw new DocumentMalformed('A text of the sheet is missing.');
      return textCell(text);
    }
    if (type === 'str') return textCell(unescaped(value));
    if (type === 'b')
      return { text: isTrue(value) ? 'TRUE' : 'FALSE', native: { type: 'BOOLEAN', value: isTrue(value) } };
    if (type === 'e') return { text: value, note: 'ERROR_VALUE' };
    if (type === 'd') return { text: value };
    const number = Number(value);
    if (!Number.isFinite(number)) throw new DocumentMalformed('A number of the sheet is none.');
    return numberCell(number, book.kinds[style] ?? 'NUMBER', book.epoch1904);
  };
  const end = (): void => {
    merges.fill(row, cells);
    while (cells.length > 0 && cells.at(-1) === undefined) cells.pop();
    if (isEmptyRow(cells)) return;
    const number = row + 1;
    rows += 1;
    found.push({
      type: 'row',
      cells,
      cite: (at) => ({ kind: 'SHEET', sheet: sheet.name, ref: `${columnLetters(at)}${number}` }),
    });
  };

  const handler: Handler = {
    open(name, attributes) {
      if (name === 'row') {
        const next = attributes['r'] === undefined ? row + 1 : Number(attributes['r']) - 1;
        if (!(next > row && next < maxRow)) throw new DocumentMalformed('A row is not where it should be.');
        row = next;
        column = -1;
        cells = [];
      } else if (name === 'c') begin(attributes);
      else if (name === 'v') {
        within = 'v';
        has = true;
      } else if (name === 'f') {
        within = 'f';
        formula = '';
      } else if (name === 't') within = phonetic ? null : 't';
      else if (name === 'rPh') phonetic = true;
    },
    close(name) {
      if (name === 'c') {
        const one = cell();
        if (one) cells[column] = one;
      } else if (name === 'row') end();
      else if (name === 'rPh') phonetic = false;
      else if (name === 'v' || name === 'f' || name === 't') within = null;
    },
    text(piece) {
      if (within === 'v') value += piece;
      else if (within === 't') inline += piece;
      else if (within === 'f') formula += piece;
    },
  };
  let begun = false;
  for await (const batch of streamXml(pack.read(sheet.part), handler, found)) {
    if (!begun) yield { type: 'table', name: sheet.name, sheet: sheet.name };
    begun = true;
    yield* batch;
    if (rows >= maxRows) break;
  }
  if (begun) yield { type: 'end' };
}

const textCell = (text: string): RawCell | undefined =>
  text === '' ? undefined : { text, native: { type: 'TEXT', value: text } };
