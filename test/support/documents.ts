import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  defaultLimits,
  definitionSchema,
  type Cell,
  type DefinitionInput,
  type Extracted,
  type Format,
  type Limits,
  type Progress,
} from '../../src/integrations/extractors/extractor.ts';
import { readTables } from '../../src/integrations/extractors/read.ts';
import { zipOf, type ZipPart } from './zip.ts';

type Of<T extends Extracted['type']> = Extract<Extracted, { type: T }>;

/** All that came out, table by table. */
export interface Collected {
  readonly tables: { readonly head: Of<'table'>; readonly rows: Cell[][]; end: Of<'tableEnd'> | null }[];
  readonly warnings: Of<'warning'>[];
  readonly progress: Progress[];
}

export async function collect(items: AsyncIterable<Extracted | Progress>): Promise<Collected> {
  const found: Collected = { tables: [], warnings: [], progress: [] };
  for await (const item of items) {
    if (!('type' in item)) found.progress.push(item);
    else if (item.type === 'warning') found.warnings.push(item);
    else if (item.type === 'table') found.tables.push({ head: item, rows: [], end: null });
    else {
      const table = found.tables[item.table];
      if (!table || table.end) throw new Error('Rows of no table.');
      if (item.type === 'tableEnd') table.end = item;
      else if (item.from !== table.rows.length) throw new Error('Rows that do not follow.');
      else table.rows.push(...item.rows.map((row) => [...row]));
    }
  }
  return found;
}

/** A folder for documents of a test file. */
export async function documentFolder(): Promise<{
  put(data: string | Uint8Array): Promise<string>;
  remove(): Promise<void>;
}> {
  const folder = await mkdtemp(path.join(tmpdir(), 'switchyard-documents-'));
  let count = 0;
  return {
    async put(data) {
      const file = path.join(folder, String(count++));
      await writeFile(file, data);
      return file;
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}

/** What the readers make of a file, in this process. */
export async function read(
  file: string,
  format: Format | 'ANSWER',
  definition: DefinitionInput = {},
  { limits = {}, sampleRows = null }: { readonly limits?: Partial<Limits>; readonly sampleRows?: number | null } = {},
): Promise<Collected> {
  const handle = await open(file, 'r');
  try {
    const { size } = await handle.stat();
    return await collect(
      readTables(
        { fd: handle.fd, sizeBytes: size },
        { format, definition: definitionSchema.parse(definition), limits: { ...defaultLimits, ...limits }, sampleRows },
      ),
    );
  } finally {
    await handle.close();
  }
}

/** The texts of a table's rows. */
export const texts = (rows: readonly (readonly Cell[])[]): string[][] => rows.map((row) => row.map(({ text }) => text));
export const values = (rows: readonly (readonly Cell[])[]): Cell['value'][][] =>
  rows.map((row) => row.map(({ value }) => value));

const relations = (entries: readonly (readonly [id: string, type: string, target: string])[]): string =>
  `<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">${entries
    .map(
      ([id, type, target]) =>
        `<Relationship Id="${id}" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/${type}" Target="${target}"/>`,
    )
    .join('')}</Relationships>`;

/** A workbook of the XML of its sheets, by hand: what no decent program writes, too. */
export function workbook(
  sheets: Readonly<Record<string, string>>,
  more: {
    readonly strings?: string;
    readonly styles?: string;
    readonly properties?: string;
    readonly states?: Readonly<Record<string, string>>;
    readonly parts?: readonly ZipPart[];
  } = {},
): Buffer {
  const names = Object.keys(sheets);
  const main = 'http://schemas.openxmlformats.org/spreadsheetml/2006/main';
  return zipOf([
    { name: '_rels/.rels', data: relations([['r1', 'officeDocument', 'xl/workbook.xml']]) },
    {
      name: 'xl/workbook.xml',
      data: `<workbook xmlns="${main}" xmlns:r="urn:r"><workbookPr ${more.properties ?? ''}/><sheets>${names
        .map(
          (name, at) =>
            `<sheet name="${name}" sheetId="${at + 1}" state="${more.states?.[name] ?? 'visible'}" r:id="s${at}"/>`,
        )
        .join('')}</sheets></workbook>`,
    },
    {
      name: 'xl/_rels/workbook.xml.rels',
      data: relations([
        ...names.map((_, at) => [`s${at}`, 'worksheet', `worksheets/${at}.xml`] as const),
        ['styles', 'styles', 'styles.xml'],
        ['strings', 'sharedStrings', 'strings.xml'],
      ]),
    },
    ...names.map((name, at) => ({
      name: `xl/worksheets/${at}.xml`,
      data: `<worksheet xmlns="${main}">${sheets[name]}</worksheet>`,
    })),
    ...(more.styles === undefined
      ? []
      : [{ name: 'xl/styles.xml', data: `<styleSheet xmlns="${main}">${more.styles}</styleSheet>` }]),
    ...(more.strings === undefined
      ? []
      : [{ name: 'xl/strings.xml', data: `<sst xmlns="${main}">${more.strings}</sst>` }]),
    ...(more.parts ?? []),
  ]);
}

/** A text document with a body. */
export function textDocument(body: string): Buffer {
  const main = 'http://schemas.openxmlformats.org/wordprocessingml/2006/main';
  return zipOf([
    { name: '_rels/.rels', data: relations([['r1', 'officeDocument', 'word/document.xml']]) },
    { name: 'word/document.xml', data: `<w:document xmlns:w="${main}"><w:body>${body}</w:body></w:document>` },
  ]);
}

/** A PDF of objects, numbered from 1: the first is the catalog. */
export function pdfOf(objects: readonly string[]): Buffer {
  let text = '%PDF-1.7\n';
  const offsets: number[] = [];
  for (const [at, object] of objects.entries()) {
    offsets.push(text.length);
    text += `${at + 1} 0 obj\n${object}\nendobj\n`;
  }
  const table = text.length;
  const entries = offsets.map((offset) => `${String(offset).padStart(10, '0')} 00000 n \n`).join('');
  text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${entries}`;
  text += `trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${table}\n%%EOF\n`;
  return Buffer.from(text, 'latin1');
}

/** A PDF whose pages have these contents, 595 by 842 points, with the font /F. */
export function pdfPages(contents: readonly string[], pageEntries = ''): Buffer {
  const first = 4;
  const kids = contents.map((_, at) => `${first + at * 2} 0 R`).join(' ');
  return pdfOf([
    '<< /Type /Catalog /Pages 2 0 R >>',
    `<< /Type /Pages /Kids [${kids}] /Count ${contents.length} /MediaBox [0 0 595 842] /Resources << /Font << /F 3 0 R >> >> >>`,
    '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>',
    ...contents.flatMap((content, at) => [
      `<< /Type /Page /Parent 2 0 R /Contents ${first + at * 2 + 1} 0 R ${pageEntries} >>`,
      `<< /Length ${content.length} >>\nstream\n${content}\nendstream`,
    ]),
  ]);
}

const escaped = (text: string): string => text.replaceAll(/[\\()]/g, String.raw`\$&`);

/** Drawing of a table: texts in cells of a width and height, from the top left, with lines or without. */
export function drawTable(
  rows: readonly (readonly string[])[],
  {
    x = 50,
    y = 780,
    widths,
    height = 20,
    ruled,
  }: { x?: number; y?: number; widths: readonly number[]; height?: number; ruled: boolean },
): string {
  const edges = widths.reduce<number[]>((sums, width) => [...sums, (sums.at(-1) ?? x) + width], [x]);
  const words = rows.flatMap((row, down) =>
    row.map((text, across) =>
      text ? `BT /F 10 Tf ${(edges[across] ?? 0) + 4} ${y - height * (down + 1) + 6} Td (${escaped(text)}) Tj ET` : '',
    ),
  );
  const lines = ruled
    ? [
        ...edges.map((edge) => `${edge} ${y} m ${edge} ${y - rows.length * height} l S`),
        ...Array.from(
          { length: rows.length + 1 },
          (_, at) => `${x} ${y - at * height} m ${edges.at(-1)} ${y - at * height} l S`,
        ),
      ]
    : [];
  return ['0.5 w', ...lines, ...words].filter((part) => part !== '').join('\n');
}
