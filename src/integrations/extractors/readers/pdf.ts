import { getDocument, PasswordException, VerbosityLevel, type PDFDocumentProxy } from 'unpdf/pdfjs';
import { DocumentEncrypted, DocumentMalformed, DocumentBeyondLimits } from '../errors.ts';
import type { Box } from '../extractor.ts';
import { parsePages } from '../pages.ts';
import { readBytes, type Raw, type Source } from '../raw.ts';
import { boxOf, holds, type Matrix, type Rect } from './pdf/geometry.ts';
import type { Found } from './pdf/found.ts';
import { contentOf, type PageContent, type PageParts, type Piece } from './pdf/page.ts';
import { ruledTables } from './pdf/ruled.ts';
import { unruledTables } from './pdf/unruled.ts';

/** A preview looks no further. */
const samplePages = 10;
/** Edges of columns on two pages that are the same, points. */
const sameEdge = 6;
/** Lines above or below a table that are the page's, and not a text after it. */
const pageLines = 3;

async function openPdf(bytes: Buffer<ArrayBuffer>): Promise<PDFDocumentProxy> {
  try {
    return await getDocument({
      data: new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength),
      verbosity: VerbosityLevel.ERRORS,
      // Text and lines only: no fonts of this host, nothing decoded by native code, and no image at all.
      disableFontFace: true,
      useSystemFonts: false,
      useWasm: false,
      useWorkerFetch: false,
      isOffscreenCanvasSupported: false,
      isImageDecoderSupported: false,
      maxImageSize: 1,
      enableXfa: false,
    }).promise;
  } catch (error) {
    if (error instanceof PasswordException) throw new DocumentEncrypted();
    throw new DocumentMalformed('The PDF is damaged.');
  }
}

/** Whether nobody can read it without a password. */
export async function wantsPassword(bytes: Buffer<ArrayBuffer>): Promise<boolean> {
  try {
    await openPdf(bytes);
    return false;
  } catch (error) {
    if (error instanceof DocumentEncrypted) return true;
    if (error instanceof DocumentMalformed) return false;
    throw error;
  }
}

function pagesOf(count: number, text: string | undefined): number[] {
  const wanted = text === undefined ? null : parsePages(text);
  if (!wanted) return Array.from({ length: count }, (_, at) => at + 1);
  const pages = new Set<number>();
  for (const [from, to] of wanted) for (let page = from; page <= Math.min(to, count); page++) pages.add(page);
  return [...pages].toSorted((a, b) => a - b);
}

/** Tables of the pages' text, by the lines around their cells or by how the text is aligned. */
export async function* readPdf(source: Source): AsyncGenerator<Raw> {
  const { definition, limits, maxRows } = source;
  const document = await openPdf(await readBytes(source));
  let pages = pagesOf(document.numPages, definition.pages);
  if (pages.length > limits.maxPages) throw new DocumentBeyondLimits('maxPages', limits.maxPages);
  if (maxRows < Infinity && pages.length > samplePages) {
    pages = pages.slice(0, samplePages);
    yield { type: 'warning', code: 'SAMPLE_OF_PAGES', message: `The sample is of the first ${samplePages} pages.` };
  }
  let before: { page: PageContent; table: Found } | null = null;
  let number = 0;
  let unreadable = 0;
  for (const [done, at] of pages.entries()) {
    yield { step: 'extract', unit: 'PAGES', done, total: pages.length };
    const page = await load(document, at);
    if (!page) {
      yield { type: 'warning', code: 'PAGE_UNREADABLE', message: `Page ${at} is damaged, and was left out.`, page: at };
      before = null;
      unreadable += 1;
      continue;
    }
    if (page.pieces.length === 0 && page.drawn)
      yield {
        type: 'warning',
        code: 'SCANNED_PAGE',
        message: `Page ${at} has no text: it is an image, or drawn. Characters are not recognised here.`,
        page: at,
      };
    const areas = definition.areas?.filter((area) => area.page === at).map(({ box }) => box);
    const tables = areas || definition.areas ? inAreas(page, areas ?? []) : everywhere(page);
    for (const [index, table] of tables.entries()) {
      const continues = index === 0 && before !== null && goesOn(before, { page, table });
      if (!continues) number += 1;
      yield* rowsOf(page, table, continues, number, maxRows);
    }
    const last = tables.at(-1);
    // A whole page without a table ends what was before it.
    before = last ? { page, table: last } : null;
  }
  if (unreadable === pages.length && unreadable > 0) throw new DocumentMalformed('No page of the PDF can be read.');
  yield { step: 'extract', unit: 'PAGES', done: pages.length, total: pages.length };
}

/** Text of the pages, a table each: of a line what stands together, from left to right. */
export async function* readLines(source: Source): AsyncGenerator<Raw> {
  const document = await openPdf(await readBytes(source));
  const pages = pagesOf(document.numPages, source.definition.pages);
  if (pages.length > source.limits.maxPages) throw new DocumentBeyondLimits('maxPages', source.limits.maxPages);
  for (const at of pages) {
    const page = await load(document, at);
    if (!page) continue;
    yield { type: 'table', name: `Page ${at}`, page: at };
    for (const line of linesOf(page.pieces))
      yield {
        type: 'row',
        cells: line.map(({ text }) => ({ text })),
        cite: (column) => {
          const piece = line[Math.min(column, line.length - 1)];
          return { kind: 'PAGE', page: at, box: boxOf(page.toPage(piece ?? { left: 0, top: 0, right: 0, bottom: 0 })) };
        },
      };
    yield { type: 'end' };
  }
}

/** Pieces whose feet are on one height are a line. */
function linesOf(pieces: readonly Piece[]): Piece[][] {
  const lines: Piece[][] = [];
  for (const piece of pieces.toSorted((a, b) => a.baseline - b.baseline)) {
    const first = lines.at(-1)?.[0];
    if (first && Math.abs(first.baseline - piece.baseline) < Math.max(1, first.size / 3)) lines.at(-1)?.push(piece);
    else lines.push([piece]);
  }
  return lines.map((line) => line.toSorted((a, b) => a.left - b.left));
}

async function load(document: PDFDocumentProxy, at: number): Promise<PageContent | null> {
  const parts = await partsOf(document, at);
  return parts && contentOf(at, parts);
}

/** What the parser says of a page; null: it cannot be read. */
async function partsOf(document: PDFDocumentProxy, at: number): Promise<PageParts | null> {
  try {
    const page = await document.getPage(at);
    const { items } = await page.getTextContent({ includeMarkedContent: false });
    const { fnArray, argsArray } = await page.getOperatorList();
    const { transform, width, height } = page.getViewport({ scale: 1 });
    page.cleanup();
    return {
      items: items.flatMap((item) =>
        'str' in item ? [{ ...item, transform: item.transform as unknown as Matrix }] : [],
      ),
      operators: fnArray,
      args: argsArray as unknown[],
      transform: transform as unknown as Matrix,
      width,
      height,
    };
  } catch {
    return null; // whatever a hostile page made of it: the caller tells of it
  }
}

function everywhere(page: PageContent): Found[] {
  const { tables, rest } = ruledTables(page);
  return [...tables, ...unruledTables(rest)].toSorted((a, b) => a.rect.top - b.rect.top || a.rect.left - b.rect.left);
}

function inAreas(page: PageContent, areas: readonly Box[]): Found[] {
  return areas.flatMap(([x, y, width, height]) => {
    const area = page.fromPage({ left: x, top: y, right: x + width, bottom: y + height });
    const pieces = page.pieces.filter((piece) =>
      holds(area, (piece.left + piece.right) / 2, (piece.top + piece.bottom) / 2),
    );
    const within = (at: number, from: number, to: number): boolean => at >= from - 3 && at <= to + 3;
    const part = {
      ...page,
      pieces,
      horizontal: page.horizontal.filter(({ at }) => within(at, area.top, area.bottom)),
      vertical: page.vertical.filter(({ at }) => within(at, area.left, area.right)),
    };
    const ruled = ruledTables(part).tables;
    return ruled.length > 0 ? ruled.slice(0, 1) : unruledTables(pieces, true).slice(0, 1);
  });
}

/** Whether a table is the rest of the one at the end of the page before: same columns, and nothing but the page's own between. */
function goesOn(last: { page: PageContent; table: Found }, next: { page: PageContent; table: Found }): boolean {
  const [a, b] = [last.table, next.table];
  if (a.ruled !== b.ruled || a.columns.length !== b.columns.length || next.page.number !== last.page.number + 1)
    return false;
  const same = a.columns.every(([left, right], at) => {
    const [otherLeft, otherRight] = b.columns[at] as readonly [number, number];
    return a.ruled
      ? Math.abs(left - otherLeft) < sameEdge && Math.abs(right - otherRight) < sameEdge
      : left < otherRight && otherLeft < right;
  });
  const linesAmong = (pieces: readonly Piece[]): number =>
    new Set(pieces.map(({ baseline }) => Math.round(baseline / 3))).size;
  const below = last.page.pieces.filter(({ top }) => top >= a.rect.bottom - 1);
  const above = next.page.pieces.filter(({ bottom }) => bottom <= b.rect.top + 1);
  return same && linesAmong(below) <= pageLines && linesAmong(above) <= pageLines;
}

function* rowsOf(page: PageContent, table: Found, continues: boolean, number: number, maxRows: number): Generator<Raw> {
  const box = (rect: Rect): Box => boxOf(page.toPage(rect));
  yield {
    type: 'table',
    name: `Table ${number}`,
    page: page.number,
    box: box(table.rect),
    ruled: table.ruled,
    continues,
  };
  for (const row of table.rows.slice(0, maxRows)) {
    yield {
      type: 'row',
      cells: row.map(({ text, place, covered }) => ({
        text,
        place,
        ...(covered && text !== '' ? { note: 'MERGED' as const } : {}),
      })),
      cite: (column) => {
        const rect = row[column]?.rect ?? table.rect;
        return { kind: 'PAGE', page: page.number, box: box(rect) };
      },
    };
  }
  yield { type: 'end' };
}
