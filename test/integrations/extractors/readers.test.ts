import { stringify } from 'csv-stringify/sync';
import fc from 'fast-check';
import writeExcelFile from 'write-excel-file/node';
import { utils, write, type BookType } from '@e965/xlsx';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { dialectOf } from '../../../src/integrations/extractors/readers/dialect.ts';
import {
  documentFolder,
  drawTable,
  pdfPages,
  read,
  textDocument,
  texts,
  values,
  workbook,
} from '../../support/documents.ts';

const seed = 20_260_705;
let folder: Awaited<ReturnType<typeof documentFolder>>;
beforeAll(async () => {
  folder = await documentFolder();
});
afterAll(() => folder.remove());

const readBytes = async (
  data: string | Uint8Array,
  ...rest: Parameters<typeof read> extends [string, ...infer R] ? R : never
) => read(await folder.put(data), ...rest);

describe('CSV', () => {
  test('what csv-stringify writes comes back equal, whatever is in it', async () => {
    // What no database keeps as text is replaced, and told of elsewhere.
    const field = fc
      .oneof(
        fc.string({ unit: 'grapheme', maxLength: 12 }),
        fc.string({
          unit: fc.constantFrom('"', ',', ';', '\t', '\n', '\r\n', ' ', 'a', 'ä', '\u2028', "'"),
          maxLength: 8,
        }),
      )
      .filter((text) => !text.includes('\0') && text.isWellFormed());
    const table = fc
      .integer({ min: 2, max: 5 })
      .chain((width) =>
        fc.array(fc.array(field, { minLength: width, maxLength: width }), { minLength: 1, maxLength: 12 }),
      );
    const dialect = fc.record({
      delimiter: fc.constantFrom(',', ';', '\t', '|'),
      record_delimiter: fc.constantFrom('\n', '\r\n'),
      quoted: fc.boolean(),
      bom: fc.boolean(),
      wide: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(table, dialect, async (rows, { wide, ...options }) => {
        fc.pre(!wide || !rows.flat().some((text) => text.includes('\uFFFD')));
        // Line ends other than its own it quotes only when it quotes everything.
        const quoted = options.quoted || rows.flat().some((text) => /[\r\n]/.test(text));
        const text = stringify(rows, { ...options, quoted, quoted_match: /^\uFEFF/, bom: options.bom || wide });
        const bytes = wide ? Buffer.from(text, 'utf16le') : Buffer.from(text);
        const definition = {
          headerRows: 0,
          delimiter: options.delimiter,
          quote: '"',
          ...(wide || options.bom ? {} : { encoding: 'utf-8' }),
        };
        const { tables, warnings } = await readBytes(bytes, 'CSV', definition);
        expect(warnings).toEqual([]);
        expect(texts(tables[0]?.rows ?? [])).toEqual(rows);
      }),
      { seed, numRuns: 150 },
    );
  });

  test('lines are those of the file, also behind fields of many lines and empty lines', async () => {
    const { tables } = await readBytes('a,b\r\n"1\r\n2",x\r\n\r\n\r\ny,z\r\n', 'CSV', { headerRows: 1 });
    expect(tables[0]?.rows.map((row) => row.map(({ citation }) => citation))).toEqual([
      [
        { kind: 'LINE', line: 2, column: 1 },
        { kind: 'LINE', line: 2, column: 2 },
      ],
      [
        { kind: 'LINE', line: 6, column: 1 },
        { kind: 'LINE', line: 6, column: 2 },
      ],
    ]);
  });

  test.each([
    ['a;b;c\n1,5;2,5;x\n3,5;4,5;y\n', ';', '"'],
    ['a\tb\n1,2\t3\n', '\t', '"'],
    ['a|b|c\n1|2|3\n', '|', '"'],
    ['name,"said, loudly"\nx,"y; z; w"\n', ',', '"'],
    ["'a','b'\n'1,5','2'\n", ',', "'"],
    ['one\ntwo\n', ',', '"'],
    [`a,b\n5" disk,1\n`, ',', '"'],
  ])('%j is divided by %j', (text, delimiter, quote) => {
    expect(dialectOf(text, { format: 'CSV' })).toMatchObject({ delimiter, quote });
  });

  test('a beginning that ends inside of a quoted field is divided as the rest', () => {
    const text = `a,b\n${'1,"x; y"\n'.repeat(3)}2,"x; `;
    expect(dialectOf(text, { format: 'CSV', cut: true })).toMatchObject({ delimiter: ',', quote: '"' });
  });

  test('encodings: UTF-8 is a fact, others are guessed and told', async () => {
    const rows = 'Straße;Größe\nZürich;größer als früher\n';
    const latin = await readBytes(Buffer.from(rows, 'latin1'), 'CSV');
    expect(texts(latin.tables[0]?.rows ?? [])).toEqual([['Zürich', 'größer als früher']]);
    expect(latin.warnings.map(({ code }) => code)).toEqual(['ENCODING_GUESSED']);
    const utf8 = await readBytes(rows, 'CSV');
    expect(utf8.warnings).toEqual([]);
    expect(utf8.tables[0]?.head.columns.map(({ name }) => name)).toEqual(['Straße', 'Größe']);
    const told = await readBytes(Buffer.from([0x61, 0x3b, 0xb5, 0x0a]), 'CSV', {
      encoding: 'iso-8859-7',
      headerRows: 0,
    });
    expect(texts(told.tables[0]?.rows ?? [])).toEqual([['a', '΅']]);
    const broken = await readBytes(Buffer.from([0x61, 0x3b, 0xff, 0x0a]), 'CSV', { encoding: 'utf-8', headerRows: 0 });
    expect(broken.warnings.map(({ code }) => code)).toEqual(['CHARACTERS_REPLACED']);
  });

  test('types are of the column: others of it decide what one leaves open, later ones only widen or do not fit', async () => {
    const early = 'n,d,w,z,mixed\n' + '"1,234",03/04/2025,1,007,a\n"1,234.50",25/04/2025,2,008,5\n'.repeat(260);
    const { tables } = await readBytes(`${early}"2,000",01/02/2025,2.5,009,b\noops,,x,010,c\n`, 'CSV');
    const [table] = tables;
    expect(table?.head.columns.map(({ type }) => type)).toEqual(['DECIMAL', 'DATE', 'INTEGER', 'TEXT', 'TEXT']);
    expect(table?.end?.columns.map(({ type }) => type)).toEqual(['DECIMAL', 'DATE', 'DECIMAL', 'TEXT', 'TEXT']);
    expect(table?.rows[0]?.slice(0, 4)).toMatchObject([
      { value: '1234', confidence: 0.9 },
      { value: '2025-04-03', confidence: 0.9 },
      { value: 1, confidence: 1 },
      { value: '007', type: 'TEXT' },
    ]);
    expect(table?.rows.at(-2)?.[2]).toMatchObject({ value: '2.5', type: 'DECIMAL', confidence: 1 });
    expect(table?.rows.at(-1)).toMatchObject([
      { value: 'oops', type: 'TEXT', note: 'TYPE_MISMATCH', confidence: 0.4 },
      { type: 'EMPTY' },
      { note: 'TYPE_MISMATCH' },
      {},
      {},
    ]);
  });

  test('headers: found, titles above them, none, and as many as the definition says', async () => {
    const head = async (text: string, definition = {}) => {
      const found = (await readBytes(text, 'CSV', definition)).tables[0];
      return {
        headers: found?.head.headerRows,
        names: found?.head.columns.map(({ name }) => name),
        rows: found?.rows.length,
      };
    };
    expect(await head('Name,Age\nAda,36\nBob,41\n')).toEqual({ headers: 1, names: ['Name', 'Age'], rows: 2 });
    expect(await head('Report of May,,\nName,Age,City\nAda,36,Bern\n')).toEqual({
      headers: 2,
      names: ['Name', 'Age', 'City'],
      rows: 1,
    });
    expect(await head('Country,2023,2024\nA,1,2\n')).toEqual({
      headers: 1,
      names: ['Country', '2023', '2024'],
      rows: 1,
    });
    expect(await head('1,2\n3,4\n')).toEqual({ headers: 0, names: ['Column 1', 'Column 2'], rows: 2 });
    expect(await head('a,a\nx,1\n', { headerRows: 1 })).toEqual({ headers: 1, names: ['a', 'a (2)'], rows: 1 });
    expect(await head('A,A,B\nx,y,\n1,2,3\n', { headerRows: 2 })).toEqual({
      headers: 2,
      names: ['A x', 'A y', 'B'],
      rows: 1,
    });
    expect(await head('x,1\n', { columns: [{ name: 'k' }, { name: 'v', type: 'TEXT' }], headerRows: 0 })).toEqual({
      headers: 0,
      names: ['k', 'v'],
      rows: 1,
    });
  });

  test('records may be longer than those before them: the table grows', async () => {
    const { tables } = await readBytes('a,b\n1,2\n3,4,5\n', 'CSV', { headerRows: 1 });
    expect(tables[0]?.head.columns).toHaveLength(3);
    const late = await readBytes(`a,b\n${'1,2\n'.repeat(600)}3,4,5\n`, 'CSV', { headerRows: 1 });
    expect([late.tables[0]?.head.columns.length, late.tables[0]?.end?.columns.length]).toEqual([2, 3]);
    expect(late.tables[0]?.rows.at(-1)?.map(({ text }) => text)).toEqual(['3', '4', '5']);
  });

  test('a sample has so many rows and no more', async () => {
    const { tables } = await readBytes(`a,b\n${'1,2\n'.repeat(5000)}`, 'CSV', {}, { sampleRows: 7 });
    expect(tables[0]?.end?.rows).toBe(7);
  });

  test('what no database keeps is replaced', async () => {
    const { tables } = await readBytes('a,b\nx\0y,z\n', 'CSV', { headerRows: 1, encoding: 'utf-8' });
    expect(texts(tables[0]?.rows ?? [])).toEqual([['x\uFFFDy', 'z']]);
  });
});

describe('XLSX', () => {
  test('what write-excel-file writes comes back', async () => {
    const day = new Date(Date.UTC(2024, 1, 29));
    const moment = new Date(Date.UTC(2024, 1, 29, 12, 30, 15));
    const rows = [
      ['Name', 'Sum', 'Day', 'At', 'Ok', 'Formula'].map((value) => ({ value })),
      [
        { value: 'Ä < & > " \n x' },
        { value: -1234.5 },
        { value: day, type: Date, format: 'yyyy-mm-dd' },
        { value: moment, type: Date, format: 'dd.mm.yyyy hh:mm:ss' },
        { value: true, type: Boolean },
        null,
      ],
      [
        { value: ' y ' },
        { value: 7 },
        { value: new Date(Date.UTC(1900, 2, 1)), type: Date, format: 'd/m/yy' },
        null,
        { value: false, type: Boolean },
        null,
      ],
    ];
    const bytes = await writeExcelFile(rows as never).toBuffer();
    const { tables } = await readBytes(bytes, 'XLSX');
    expect(tables[0]?.head.columns.map(({ type }) => type)).toEqual([
      'TEXT',
      'DECIMAL',
      'DATE',
      'DATETIME',
      'BOOLEAN',
      'TEXT',
    ]);
    expect(values(tables[0]?.rows ?? [])).toEqual([
      ['Ä < & > " \n x', '-1234.5', '2024-02-29', '2024-02-29T12:30:15', true, null],
      [' y ', '7', '1900-03-01', null, false, null],
    ]);
    expect(tables[0]?.rows[1]?.[2]?.citation).toEqual({ kind: 'SHEET', sheet: 'Sheet1', ref: 'C3' });
  });

  test('any table of texts and numbers comes back from write-excel-file and, as XLSX and XLS, from SheetJS', async () => {
    const cell = fc.oneof(
      fc
        .string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 10 })
        .filter((text) => text.trim() === text && !/_x/.test(text)),
      fc.integer({ min: -1_000_000, max: 1_000_000 }),
      fc.integer({ min: -1_000_000, max: 1_000_000 }).map((cents) => cents / 128),
      fc.boolean(),
    );
    const table = fc
      .integer({ min: 1, max: 4 })
      .chain((width) =>
        fc.array(fc.array(cell, { minLength: width, maxLength: width }), { minLength: 1, maxLength: 6 }),
      );
    await fc.assert(
      fc.asyncProperty(table, async (rows) => {
        const written = [await writeExcelFile(rows as never).toBuffer()];
        const book = utils.book_new();
        utils.book_append_sheet(book, utils.aoa_to_sheet(rows), 'Sheet1');
        for (const bookType of ['xlsx', 'biff8'] as BookType[])
          written.push(write(book, { bookType, type: 'buffer' }) as Buffer);
        for (const [at, bytes] of written.entries()) {
          const { tables } = await readBytes(bytes, at === 2 ? 'XLS' : 'XLSX', { headerRows: 0 });
          const shown = rows.map((row) =>
            row.map((value) => (typeof value === 'boolean' ? String(value).toUpperCase() : String(value))),
          );
          expect(texts(tables[0]?.rows ?? [])).toEqual(shown);
        }
      }),
      { seed, numRuns: 40 },
    );
  });

  const styles =
    '<numFmts><numFmt numFmtId="170" formatCode="yyyy\\-mm\\-dd"/></numFmts><cellXfs><xf numFmtId="0"/><xf numFmtId="170"/><xf numFmtId="22"/></cellXfs>';

  test('rich text without its phonetic runs, inline and formula texts, errors, formulas without a value, escapes', async () => {
    const bytes = workbook(
      {
        S: `<sheetData><row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><r><t>in</t></r><r><t>line</t></r><rPh><t>no</t></rPh></is></c><c r="C1" t="str"><f>A1</f><v>made</v></c><c r="E1" t="e"><v>#N/A</v></c><c r="F1"><f>1+1</f></c><c r="G1"><f>1+1</f><v>2</v></c></row></sheetData>`,
      },
      {
        strings:
          '<si><r><t>東</t></r><rPh sb="0" eb="1"><t>ヒガシ</t></rPh><r><t xml:space="preserve"> _x0041_</t></r></si>',
      },
    );
    const { tables } = await readBytes(bytes, 'XLSX', { headerRows: 0 });
    expect(tables[0]?.rows[0]).toMatchObject([
      { text: '東 A' },
      { text: 'inline' },
      { text: 'made' },
      { type: 'EMPTY' },
      { text: '#N/A', value: null, note: 'ERROR_VALUE', confidence: 0.5 },
      { text: '=1+1', value: null, note: 'FORMULA_WITHOUT_VALUE', confidence: 0.5 },
      { value: 2 },
    ]);
  });

  test('both epochs', async () => {
    const sheet =
      '<sheetData><row r="1"><c r="A1" s="1"><v>43889</v></c><c r="B1" s="2"><v>43889.5</v></c></row></sheetData>';
    const of = async (properties: string) =>
      values((await readBytes(workbook({ S: sheet }, { styles, properties }), 'XLSX')).tables[0]?.rows ?? []);
    expect(await of('')).toEqual([['2020-02-28', '2020-02-28T12:00:00']]);
    expect(await of('date1904="1"')).toEqual([['2024-02-29', '2024-02-29T12:00:00']]);
  });

  test('merged cells repeat their value and say so; two rows of headers become one name', async () => {
    const row = (r: number, cells: readonly string[]) =>
      `<row r="${r}">${cells.map((text, at) => (text ? `<c r="${'ABC'[at]}${r}" t="inlineStr"><is><t>${text}</t></is></c>` : '')).join('')}</row>`;
    const bytes = workbook({
      S: `<sheetData>${row(1, ['Region', 'Sales'])}${row(2, ['', 'Q1', 'Q2'])}${row(3, ['North', '1', '2'])}${row(4, ['', '3', '4'])}</sheetData><mergeCells><mergeCell ref="A1:A2"/><mergeCell ref="B1:C1"/><mergeCell ref="A3:A4"/></mergeCells>`,
    });
    const { tables } = await readBytes(bytes, 'XLSX');
    expect(tables[0]?.head.columns.map(({ name }) => name)).toEqual(['Region', 'Sales Q1', 'Sales Q2']);
    expect(texts(tables[0]?.rows ?? [])).toEqual([
      ['North', '1', '2'],
      ['North', '3', '4'],
    ]);
    expect(tables[0]?.rows.map(([cell]) => cell?.note)).toEqual([undefined, 'MERGED']);
  });

  test('hidden sheets are left out and told of, unless they are asked for; by name and by number', async () => {
    const sheet = (text: string) => `<sheetData><row><c t="inlineStr"><is><t>${text}</t></is></c></row></sheetData>`;
    const bytes = workbook({ One: sheet('1'), Two: sheet('2'), Three: sheet('3') }, { states: { Two: 'veryHidden' } });
    const names = async (sheets?: string[]) => {
      const { tables, warnings } = await readBytes(bytes, 'XLSX', sheets ? { sheets } : {});
      return [tables.map(({ head }) => head.sheet), warnings.map(({ code }) => code)];
    };
    expect(await names()).toEqual([['One', 'Three'], ['HIDDEN_SHEET']]);
    expect(await names(['Two', '3', 'Four'])).toEqual([['Two', 'Three'], ['SHEET_NOT_FOUND']]);
  });
});

describe('DOCX', () => {
  const cell = (text: string, properties = '') =>
    `<w:tc><w:tcPr>${properties}</w:tcPr><w:p><w:r><w:t>${text}</w:t></w:r></w:p></w:tc>`;
  const row = (...cells: string[]) => `<w:tr>${cells.join('')}</w:tr>`;

  test('spans, paragraphs, deleted text, nested tables', async () => {
    const nested = `<w:tbl>${row(cell('inner'), cell('9'))}</w:tbl>`;
    const bytes = textDocument(
      `<w:p><w:r><w:t>before</w:t></w:r></w:p><w:tbl>${[
        `<w:tr><w:trPr><w:tblHeader/></w:trPr>${cell('Name')}${cell('Both', '<w:gridSpan w:val="2"/>')}</w:tr>`,
        row(
          cell('A', '<w:vMerge w:val="restart"/>'),
          cell('1'),
          `<w:tc><w:p><w:r><w:t>x</w:t></w:r></w:p>${nested}<w:p><w:del><w:r><w:delText>no</w:delText></w:r></w:del><w:r><w:t>y</w:t></w:r></w:p></w:tc>`,
        ),
        row(cell('', '<w:vMerge/>'), cell('2'), cell('z')),
      ].join('')}</w:tbl>`,
    );
    const { tables } = await readBytes(bytes, 'DOCX');
    expect(tables.map(({ head }) => head.name)).toEqual(['Table 1', 'Table 2']);
    expect(tables[0]?.head.columns.map(({ name }) => name)).toEqual(['Name', 'Both', 'Both (2)']);
    expect(texts(tables[0]?.rows ?? [])).toEqual([
      ['A', '1', 'x\ny'],
      ['A', '2', 'z'],
    ]);
    expect(tables[0]?.rows[1]?.[0]).toMatchObject({
      note: 'MERGED',
      citation: { kind: 'ELEMENT', path: 'table 1, row 3, cell 1' },
    });
    expect(texts(tables[1]?.rows ?? [])).toEqual([['inner', '9']]);
  });
});

describe('HTML', () => {
  test('spans as the standard forms tables, headers, captions, what is not shown', async () => {
    const { tables } = await readBytes(
      `<!doctype html><meta charset=utf-8><table><caption>Sales</caption><thead><tr><th rowspan=2>Region<th colspan=2>Year</tr><tr><th>Q1<th>Q2</thead>
       <tbody><tr><td rowspan=0>North<td>1<td>a<br>b <script>no()</script><style>no</style></tr><tr><td>2<td><p>x</p><p>y</p></tr></tbody>
       <tbody><tr><td>South<td>3<td><table><tr><td>in<td>1<tr><td>out<td>2</table></tr></tbody></table>`,
      'HTML',
    );
    expect(tables.map(({ head }) => [head.name, head.headerRows])).toEqual([
      ['Sales', 2],
      ['Table 2', 0],
    ]);
    expect(tables[0]?.head.columns).toEqual([
      { name: 'Region', type: 'TEXT' },
      { name: 'Year Q1', type: 'INTEGER' },
      { name: 'Year Q2', type: 'TEXT' },
    ]);
    expect(texts(tables[0]?.rows ?? [])).toEqual([
      ['North', '1', 'a\nb'],
      ['North', '2', 'x\ny'],
      ['South', '3', ''],
    ]);
    expect(texts(tables[1]?.rows ?? [])).toEqual([
      ['in', '1'],
      ['out', '2'],
    ]);
  });
});

describe('PDF', () => {
  const rows = [
    ['Item', 'Day', 'Price'],
    ['Hammer', '2025-01-02', '10.50'],
    ['Box of nails', '2025-01-03', '1.25'],
    ['Saw', '2025-01-04', '99.00'],
  ];
  const widths = [120, 100, 80];
  const typed = [
    ['Hammer', '2025-01-02', '10.50'],
    ['Box of nails', '2025-01-03', '1.25'],
    ['Saw', '2025-01-04', '99.00'],
  ];

  test.each([true, false])('one table, with lines: %s', async (ruled) => {
    const { tables } = await readBytes(pdfPages([drawTable(rows, { widths, ruled })]), 'PDF');
    expect(tables).toHaveLength(1);
    expect(tables[0]?.head).toMatchObject({ page: 1, ruled, headerRows: 1 });
    expect(tables[0]?.end?.columns.map(({ type }) => type)).toEqual(['TEXT', 'DATE', 'DECIMAL']);
    expect(values(tables[0]?.rows ?? [])).toEqual(typed);
    // The second row's first cell: from the top of the page, in points.
    const citation = tables[0]?.rows[0]?.[0]?.citation;
    // A text's box is about its letters: 7.5 above the baseline, which is 96 from the top.
    const box = ruled ? [50, 82, 120, 20] : [54, 88.5, 38.33, 9.7];
    expect(citation).toEqual({ kind: 'PAGE', page: 1, box });
    expect(
      tables[0]?.rows
        .flat()
        .every(({ confidence }) => (ruled ? confidence === 1 : confidence >= 0.7 && confidence <= 0.95)),
    ).toBe(true);
  });

  test('several tables of a page, both kinds, with text around them', async () => {
    const prose =
      'BT /F 10 Tf 50 800 Td (A long paragraph of text that goes from one side of the page to the other and says nothing.) Tj ET';
    const { tables } = await readBytes(
      pdfPages([
        [
          prose,
          drawTable(rows, { widths, ruled: true, y: 760 }),
          prose.replace('800', '600'),
          drawTable(rows, { widths, ruled: false, y: 560 }),
        ].join('\n'),
      ]),
      'PDF',
    );
    expect(tables.map(({ head }) => head.ruled)).toEqual([true, false]);
    for (const table of tables) expect(values(table.rows)).toEqual(typed);
  });

  test.each([true, false])('a table that goes on drops its repeated header, with lines: %s', async (ruled) => {
    const page = (from: number) =>
      drawTable(
        [
          rows[0] as string[],
          ...Array.from({ length: 36 }, (_, at) => [`item ${from + at}`, '2025-01-02', `${from + at}.50`]),
        ],
        { widths, ruled },
      );
    const { tables } = await readBytes(pdfPages([page(0), page(36), page(72)]), 'PDF');
    expect(tables.map(({ head }) => head.continuedFrom)).toEqual([undefined, 0, 1]);
    expect(tables.flatMap(({ rows: found }) => found.map(([first]) => first?.text))).toEqual(
      Array.from({ length: 108 }, (_, at) => `item ${at}`),
    );
  });

  test.each([90, 180, 270])('a page that is turned by %d degrees is as a reader sees it', async (rotate) => {
    const { tables } = await readBytes(
      pdfPages([drawTable(rows, { widths, ruled: true })], `/Rotate ${rotate}`),
      'PDF',
    );
    expect(values(tables[0]?.rows ?? [])).toEqual(typed);
    const boxes = { 90: [740, 50, 20, 120], 180: [425, 740, 120, 20], 270: [82, 425, 20, 120] };
    expect(tables[0]?.rows[0]?.[0]?.citation).toEqual({ kind: 'PAGE', page: 1, box: boxes[rotate as 90] });
  });

  test('a page whose text is turned reads the same', async () => {
    const turned = `q 0 1 -1 0 700 0 cm ${drawTable(rows, { widths, ruled: true, y: 500 })} Q`;
    const { tables } = await readBytes(pdfPages([turned]), 'PDF');
    expect(values(tables[0]?.rows ?? [])).toEqual(typed);
  });

  test('cells over several columns and rows', async () => {
    const merged = [
      '0.5 w',
      '50 700 200 60 re S',
      '50 740 m 250 740 l S',
      '50 720 m 250 720 l S',
      '150 700 m 150 740 l S',
    ];
    const words = [
      [54, 746, 'Both'],
      [54, 726, 'a'],
      [154, 726, 'b'],
      [54, 706, '1'],
      [154, 706, '2'],
    ].map(([x, y, text]) => `BT /F 10 Tf ${x} ${y} Td (${text}) Tj ET`);
    const { tables } = await readBytes(pdfPages([[...merged, ...words].join('\n')]), 'PDF', { headerRows: 0 });
    expect(tables[0]?.rows.map((row) => row.map(({ text, note }) => [text, note]))).toEqual([
      [
        ['Both', undefined],
        ['Both', 'MERGED'],
      ],
      [
        ['a', undefined],
        ['b', undefined],
      ],
      [
        ['1', undefined],
        ['2', undefined],
      ],
    ]);
  });

  test('a page that is an image says so; a blank one says nothing; text in two columns is no table', async () => {
    const image = 'q 595 0 0 842 0 0 cm BI /W 2 /H 2 /CS /G /BPC 8 ID abcd EI Q';
    const line = (x: number, y: number) =>
      `BT /F 9 Tf ${x} ${y} Td (some words of a text that is set in two columns of a page) Tj ET`;
    const columns = Array.from(
      { length: 20 },
      (_, at) => `${line(40, 700 - at * 12)}\n${line(310, 700 - at * 12)}`,
    ).join('\n');
    const { tables, warnings } = await readBytes(pdfPages([image, '', columns]), 'PDF');
    expect(tables).toEqual([]);
    expect(warnings).toMatchObject([{ code: 'SCANNED_PAGE', page: 1 }]);
  });

  test('pages and areas of the definition', async () => {
    const two = `${drawTable(rows, { widths, ruled: false, y: 760 })}\n${drawTable(
      [
        ['k', 'v'],
        ['a', '1'],
      ],
      { widths, ruled: false, y: 400 },
    )}`;
    const bytes = pdfPages([two, two, two]);
    const pages = async (definition: object) =>
      (await readBytes(bytes, 'PDF', definition)).tables.map(({ head }) => head.page);
    expect(await pages({ pages: '2-9' })).toEqual([2, 3]);
    expect(await pages({ areas: [{ page: 3, box: [40, 440, 300, 60] }] })).toEqual([3]);
    const { tables } = await readBytes(bytes, 'PDF', { areas: [{ page: 3, box: [40, 440, 300, 60] }], headerRows: 1 });
    expect(texts(tables[0]?.rows ?? [])).toEqual([['a', '1']]);
  });
});
