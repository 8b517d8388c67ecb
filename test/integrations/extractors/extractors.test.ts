import { createServer } from 'node:http';
import { once } from 'node:events';
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  createExtractors,
  definitionSchema,
  ExtractionCrashed,
  ExtractionError,
  ExtractionOutOfMemory,
  ExtractionTimedOut,
  type DefinitionInput,
  type Extracted,
  type Extractors,
  type Format,
  type Limits,
  type Progress,
} from '../../../src/integrations/extractors/index.ts';
import { listProcesses } from '../../../src/kernel/processes/children.ts';
import { collect, documentFolder, pdfOf, pdfPages, textDocument, texts, workbook } from '../../support/documents.ts';
import { zipOf } from '../../support/zip.ts';
import { until } from '../../support/embedded.ts';

let folder: Awaited<ReturnType<typeof documentFolder>>;
let extractors: Extractors;
beforeAll(async () => {
  older = new Set(await running());
  folder = await documentFolder();
  extractors = createExtractors({ maxChildren: 3 });
});
afterAll(async () => {
  await extractors.close();
  await folder.remove();
});

const never = new AbortController().signal;

async function extract(
  data: string | Uint8Array,
  format: Format,
  more: {
    definition?: DefinitionInput;
    limits?: Partial<Limits>;
    signal?: AbortSignal;
    sample?: { rows: number };
  } = {},
): Promise<AsyncIterable<Extracted | Progress>> {
  const { definition = {}, signal = never, ...rest } = more;
  return extractors.extract({
    file: await folder.put(data),
    format,
    definition: definitionSchema.parse(definition),
    signal,
    ...rest,
  });
}

/** Child processes that were there before: others share this process. */
let older: ReadonlySet<number> = new Set();
const running = async (): Promise<number[]> =>
  (await listProcesses()).flatMap(({ pid, parentPid, zombie }) => (parentPid === process.pid && !zombie ? [pid] : []));
/** The child processes that extract. */
const children = async (): Promise<number[]> => (await running()).filter((pid) => !older.has(pid));

const csv = 'Name,Sum\nAda,1.50\nBob,2.25\n';
const cells = (count: number, text = 'x'): string =>
  Array.from({ length: count }, () => `<c t="inlineStr"><is><t>${text}</t></is></c>`).join('');

describe('what a file is', () => {
  test('by its content', async () => {
    const book = workbook({ S: '<sheetData/>' });
    const encrypted = Buffer.concat([
      Buffer.from('d0cf11e0a1b11ae1', 'hex'),
      Buffer.alloc(1016),
      Buffer.from('EncryptedPackage\0', 'utf16le'),
      Buffer.alloc(200),
    ]);
    // A BIFF stream that begins with FilePass.
    const locked = Buffer.alloc(2048);
    Buffer.from('d0cf11e0a1b11ae1', 'hex').copy(locked);
    locked.writeUInt16LE(9, 30);
    Buffer.from('Workbook\0', 'utf16le').copy(locked, 512);
    locked.writeUInt32LE(1, 512 + 116);
    Buffer.from('0908040000060500', 'hex').copy(locked, 1024);
    Buffer.from('2f000200', 'hex').copy(locked, 1032);
    const files: [string | Uint8Array, unknown][] = [
      [csv, { format: 'CSV', contentType: 'text/csv', encrypted: false }],
      [Buffer.from(csv.replaceAll(',', '\t'), 'utf16le'), { format: 'TSV' }],
      ['\uFEFF<!DOCTYPE html><p>x', { format: 'HTML', contentType: 'text/html' }],
      [book, { format: 'XLSX' }],
      [textDocument(''), { format: 'DOCX' }],
      [pdfPages(['']), { format: 'PDF', encrypted: false }],
      [
        zipOf([{ name: 'a.txt', data: 'x' }]),
        { format: null, contentType: 'application/zip', problem: 'DOCUMENT_UNSUPPORTED' },
      ],
      [book.subarray(0, 400), { format: null, problem: 'DOCUMENT_MALFORMED' }],
      [encrypted, { format: null, encrypted: true, problem: 'DOCUMENT_ENCRYPTED' }],
      [locked, { format: 'XLS', encrypted: true, problem: 'DOCUMENT_ENCRYPTED' }],
      ['{"a": 1}', { format: null, contentType: 'application/json' }],
      [Buffer.from([0, 1, 2, 3, 0, 255]), { format: null, contentType: 'application/octet-stream' }],
      ['', { format: null, problem: 'DOCUMENT_MALFORMED' }],
    ];
    const found = await Promise.all(files.map(async ([data]) => extractors.detect(await folder.put(data), never)));
    expect(found).toMatchObject(files.map(([, expected]) => expected));
  });
});

describe('a child process', () => {
  test('gives tables, progress and warnings in order, and is gone afterwards', async () => {
    const { tables, progress } = await collect(await extract(`a,b\n${'1,2\n'.repeat(2500)}`, 'CSV'));
    expect(tables[0]?.end).toMatchObject({ rows: 2500, columns: [{ type: 'INTEGER' }, { type: 'INTEGER' }] });
    expect(progress.map(({ done }) => done)).toEqual([1000, 2000]);
    expect(await children()).toEqual([]);
  });

  test('waits while the consumer does, and ends when it leaves', async () => {
    const items = await extract('a,b\n' + '1,2\n'.repeat(2_000_000), 'CSV');
    let batches = 0;
    for await (const item of items) {
      if (!('type' in item) || item.type !== 'rows') continue;
      batches += 1;
      if (batches === 3) break;
    }
    expect(await children()).toEqual([]);
  });

  test('is killed by the signal, and the reason is told', async () => {
    const stop = new AbortController();
    const why = new Error('stopped');
    const items = await extract('a,b\n' + '1,2\n'.repeat(500_000), 'CSV', { signal: stop.signal });
    await expect(async () => {
      for await (const item of items) if ('type' in item && item.type === 'rows') stop.abort(why);
    }).rejects.toBe(why);
    expect(await children()).toEqual([]);
    await expect(collect(await extract(csv, 'CSV', { signal: stop.signal }))).rejects.toBe(why);
  });

  test('has a time limit, which the consumer’s time does not count for', async () => {
    const endless = `<table>${'<p><a><b>'.repeat(60_000)}`;
    await expect(collect(await extract(endless, 'HTML', { limits: { timeoutMs: 400 } }))).rejects.toBeInstanceOf(
      ExtractionTimedOut,
    );
    const items = await extract(`a,b\n${'1,2\n'.repeat(20_000)}`, 'CSV', { limits: { timeoutMs: 8_000 } });
    for await (const item of items)
      if ('type' in item && item.type === 'table') await new Promise((resolve) => setTimeout(resolve, 50));
  });

  test('has a memory limit, of the heap and of what is beside it', async () => {
    const wide = `<table>${'<tr><td>x'.repeat(600_000)}`;
    await expect(collect(await extract(wide, 'HTML', { limits: { memoryMb: 160 } }))).rejects.toBeInstanceOf(
      ExtractionOutOfMemory,
    );
  });

  test.skipIf(process.platform !== 'linux')(
    'may read its own code and the file that it has, and do nothing else',
    async () => {
      const items = (await extract('a,b\n' + '1,2\n'.repeat(500_000), 'CSV'))[Symbol.asyncIterator]();
      await items.next();
      const [pid] = await children();
      const [command, environment] = await Promise.all(
        ['cmdline', 'environ'].map(async (name) => (await readFile(`/proc/${pid}/${name}`, 'utf8')).split('\0')),
      );
      await items.return?.();
      expect(environment?.filter((one) => one !== '' && !/^(?:TZ=UTC|PWD=\/|NODE_CHANNEL_)/.test(one))).toEqual([]);
      const flags = (command ?? []).filter((argument) => argument.startsWith('--'));
      expect(flags).toContain('--permission');
      // The very flags, and a program that tries.
      const tries = path.resolve('node_modules/.cache/tries.mjs');
      await mkdir(path.dirname(tries), { recursive: true });
      await writeFile(
        tries,
        `import { readFileSync, writeFileSync } from 'node:fs';
       import { spawnSync } from 'node:child_process';
       const refused = (act) => { try { act(); return false; } catch (error) { return error.code === 'ERR_ACCESS_DENIED'; } };
       console.log(JSON.stringify([
         () => readFileSync('/etc/passwd'),
         () => readFileSync('package.json'),
         () => writeFileSync('/tmp/x', ''),
         () => writeFileSync('package.json', ''),
         () => spawnSync('true'),
       ].map(refused)));`,
      );
      const { stdout } = await promisify(execFile)(process.execPath, [...flags, tries]);
      await rm(tries);
      expect(JSON.parse(stdout)).toEqual([true, false, true, true, true]);
    },
  );

  test('that dies takes nothing with it', async () => {
    const items = (await extract('a,b\n' + '1,2\n'.repeat(500_000), 'CSV'))[Symbol.asyncIterator]();
    await items.next();
    for (const pid of await children()) process.kill(pid, 'SIGKILL');
    await expect(
      (async () => {
        for (;;) if ((await items.next()).done) return;
      })(),
    ).rejects.toBeInstanceOf(ExtractionCrashed);
    expect(texts((await collect(await extract(csv, 'CSV'))).tables[0]?.rows ?? [])).toEqual([
      ['Ada', '1.50'],
      ['Bob', '2.25'],
    ]);
  });

  test('is one of so many at a time; closing ends all', async () => {
    const one = createExtractors({ maxChildren: 1 });
    const file = await folder.put('a,b\n' + '1,2\n'.repeat(500_000));
    const request = { file, format: 'CSV' as const, definition: definitionSchema.parse({}), signal: never };
    const first = one.extract(request)[Symbol.asyncIterator]();
    await first.next();
    const left = new AbortController();
    const waits = one.extract({ ...request, signal: left.signal })[Symbol.asyncIterator]();
    const second = waits.next();
    left.abort(new Error('gave up'));
    await expect(second).rejects.toThrow('gave up');
    expect(await children()).toHaveLength(1);
    const closed = one.close();
    await expect(
      (async () => {
        for (;;) if ((await first.next()).done) return;
      })(),
    ).rejects.toThrow('closed');
    await closed;
    await until('the child is gone', async () => (await children()).length === 0);
  });
});

describe('a hostile file', () => {
  const deep = (open: string, close: string, count: number): string => open.repeat(count) + close.repeat(count);
  const sheet = (xml: string): Uint8Array => workbook({ S: `<sheetData>${xml}</sheetData>` });
  const page = (entries: string): string => `<< /Type /Pages ${entries} >>`;
  const entities = `<!DOCTYPE x [<!ENTITY a "${'a'.repeat(1000)}">]><x>${'&a;'.repeat(1000)}</x>`;

  const long = `<si><t>${'x'.repeat(90_000)}</t></si>`;
  const repeated = (count: number): string => '<c t="s"><v>0</v></c>'.repeat(count);

  const corpus: Record<string, [Format, () => string | Uint8Array, string, Partial<Limits>?]> = {
    'a zip bomb': ['XLSX', () => sheet(`<row>${' '.repeat(60_000_000)}</row>`), 'DOCUMENT_BEYOND_LIMITS'],
    'more unpacked than is read': [
      'XLSX',
      () => sheet(`<row>${cells(20_000)}</row>`),
      'DOCUMENT_BEYOND_LIMITS',
      { maxUnpackedBytes: 100_000 },
    ],
    'a size that lies': [
      'XLSX',
      () =>
        workbook(
          { S: '<sheetData/>' },
          { parts: [{ name: 'xl/styles.xml', data: `<x>${' '.repeat(100_000)}</x>`, claimedSize: 20 }] },
        ),
      'DOCUMENT_MALFORMED',
    ],
    'quadratic entities': [
      'XLSX',
      () => workbook({ S: '' }, { parts: [{ name: 'xl/styles.xml', data: entities }] }),
      'DOCUMENT_MALFORMED',
    ],
    'names that lead out': [
      'XLSX',
      () => workbook({ S: '' }, { parts: [{ name: '../../etc/passwd', data: 'x' }] }),
      'DOCUMENT_MALFORMED',
    ],
    'two parts of one name': [
      'XLSX',
      () => workbook({ S: '' }, { parts: [{ name: 'XL/workbook.xml', data: 'x' }] }),
      'DOCUMENT_MALFORMED',
    ],
    'a truncated package': ['XLSX', () => workbook({ S: '' }).subarray(0, -40), 'DOCUMENT_MALFORMED'],
    'truncated XML': ['XLSX', () => workbook({ S: '<sheetData><row><c' }), 'DOCUMENT_MALFORMED'],
    'rows that go back': ['XLSX', () => sheet('<row r="2"/><row r="1"/>'), 'DOCUMENT_MALFORMED'],
    'a row beyond all rows': ['XLSX', () => sheet('<row r="99999999"/>'), 'DOCUMENT_MALFORMED'],
    'a text that is not there': ['XLSX', () => sheet('<row><c t="s"><v>5</v></c></row>'), 'DOCUMENT_MALFORMED'],
    'deep XML': [
      'DOCX',
      () => textDocument(deep('<w:tbl><w:tr><w:tc>', '</w:tc></w:tr></w:tbl>', 5_000)),
      'DOCUMENT_MALFORMED',
    ],
    'a huge span': [
      'DOCX',
      () => textDocument('<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val="999999999"/></w:tcPr></w:tc></w:tr></w:tbl>'),
      'DOCUMENT_BEYOND_LIMITS',
    ],
    'spans of HTML': [
      'HTML',
      () => `<table><tr>${'<td colspan=1000 rowspan=65534>x'.repeat(50)}</table>`,
      'DOCUMENT_BEYOND_LIMITS',
    ],
    '100,000 columns': ['CSV', () => `${'a,'.repeat(100_000)}\n`, 'DOCUMENT_BEYOND_LIMITS'],
    'a quote without an end': ['CSV', () => `a,b\n${'"1",2\n'.repeat(20_000)}"x`, 'DOCUMENT_MALFORMED'],
    'a cell without an end': ['CSV', () => `a,b\n"${'x'.repeat(9_000_000)}",y\n`, 'DOCUMENT_BEYOND_LIMITS'],
    'too many cells': ['CSV', () => 'a,b\n'.repeat(1_000), 'DOCUMENT_BEYOND_LIMITS', { maxCells: 500 }],
    'one text in all cells of a row': [
      'XLSX',
      () => workbook({ S: `<sheetData><row>${repeated(150)}</row></sheetData>` }, { strings: long }),
      'DOCUMENT_BEYOND_LIMITS',
    ],
    'one text in a cell of each row': [
      'XLSX',
      () => workbook({ S: `<sheetData>${`<row>${repeated(2)}</row>`.repeat(50)}</sheetData>` }, { strings: long }),
      'DOCUMENT_BEYOND_LIMITS',
      { maxChars: 2_000_000 },
    ],
    'too many bytes': ['CSV', () => csv, 'DOCUMENT_BEYOND_LIMITS', { maxBytes: 5 }],
    'a page tree in a circle': [
      'PDF',
      () =>
        pdfOf([
          '<< /Type /Catalog /Pages 2 0 R >>',
          page('/Kids [3 0 R] /Count 2 /Parent 3 0 R'),
          page('/Kids [2 0 R] /Count 2 /Parent 2 0 R'),
        ]),
      'DOCUMENT_MALFORMED',
    ],
    'too many pages': ['PDF', () => pdfPages(['', '', '']), 'DOCUMENT_BEYOND_LIMITS', { maxPages: 2 }],
    'no PDF': ['PDF', () => '%PDF-1.7\nnothing', 'DOCUMENT_MALFORMED'],
    'an XLS that is none': [
      'XLS',
      () => Buffer.concat([Buffer.from('d0cf11e0a1b11ae1', 'hex'), Buffer.alloc(3_000, 7)]),
      'DOCUMENT_MALFORMED',
    ],
  };

  test('has no long name of a sheet in each citation', async () => {
    const book = workbook({ ['n'.repeat(100_000)]: `<sheetData><row>${cells(2)}</row></sheetData>` });
    const [table] = (await collect(await extract(book, 'XLSX', { definition: { headerRows: 0 } }))).tables;
    expect(table?.rows[0]?.[1]?.citation).toEqual({ kind: 'SHEET', sheet: 'n'.repeat(255), ref: 'B1' });
  });

  test('gives a typed error, and the next one is read as ever', async () => {
    const codes = await Promise.all(
      Object.entries(corpus).map(async ([name, [format, make, , limits]]) => {
        const error = await collect(await extract(make(), format, { limits: limits ?? {} })).then(
          () => null,
          (reason: unknown) => reason,
        );
        return [name, error instanceof ExtractionError ? error.code : error];
      }),
    );
    expect(Object.fromEntries(codes)).toEqual(
      Object.fromEntries(Object.entries(corpus).map(([name, [, , code]]) => [name, code])),
    );
    expect((await collect(await extract(csv, 'CSV'))).tables[0]?.end?.rows).toBe(2);
    expect(await children()).toEqual([]);
  });
});

test('one process looks at a file and reads it, after a failure another one', async () => {
  const spent: number[] = [];
  const own = createExtractors({ measured: ({ cpuMs }) => void spent.push(cpuMs) });
  const file = await folder.put(csv);
  const reader = own.open(async () => file);
  const definition = definitionSchema.parse({});
  expect(await reader.detect(never)).toMatchObject({ format: 'CSV' });
  expect((await collect(reader.extract({ format: 'CSV', definition, signal: never }))).tables).toHaveLength(1);
  expect(spent).toEqual([]);
  await expect(collect(reader.extract({ format: 'XLSX', definition, signal: never }))).rejects.toThrow('damaged');
  expect(spent).toHaveLength(1);
  expect(await reader.detect(never)).toMatchObject({ format: 'CSV' });
  await reader.close();
  expect(spent).toHaveLength(2);
  await own.close();
});

describe('an external extractor', () => {
  const answer = {
    version: 1,
    tables: [
      {
        name: 'Prices',
        page: 2,
        headerRows: 1,
        rows: [
          ['Item', 'Price'],
          [{ text: 'Saw', confidence: 0.7, page: 2, box: [1, 2, 3, 4] }, '9.50'],
        ],
      },
    ],
    warnings: [{ message: 'Page 1 was blurred.', page: 1 }],
  };

  test('is off by default; so is a model', async () => {
    for (const extractor of ['HTTP', 'MODEL'] as const)
      await expect(collect(await extract(csv, 'CSV', { definition: { extractor } }))).rejects.toMatchObject({
        code: 'EXTRACTOR_UNAVAILABLE',
      });
  });

  test('is given the document and its answer is read like one; an answer that is none is a typed error', async () => {
    const asked: unknown[] = [];
    let reply: { status: number; body: string } = { status: 200, body: JSON.stringify(answer) };
    const server = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        asked.push([request.method, request.url, request.headers.authorization, request.headers['content-type'], body]);
        response.writeHead(reply.status, { 'content-type': 'application/json' }).end(reply.body);
      });
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/tables`;
    const outside = createExtractors({ http: { url, key: { reveal: () => 'secret' }, allowLoopback: true } });
    const forbidden = createExtractors({ http: { url, allowLoopback: false } });
    try {
      const file = await folder.put(csv);
      const definition = definitionSchema.parse({ extractor: 'HTTP', locale: 'en', pages: '2' });
      const request = { file, format: 'PDF' as const, definition, signal: never };
      const beside = await readdir(path.dirname(file));
      const { tables, warnings } = await collect(outside.extract(request));
      expect(asked).toEqual([
        ['POST', '/tables?format=PDF&pages=2&locale=en', 'Bearer secret', 'application/pdf', csv],
      ]);
      expect(warnings).toMatchObject([{ code: 'EXTERNAL_EXTRACTOR', page: 1 }]);
      expect(tables[0]?.head).toMatchObject({ name: 'Prices', page: 2, headerRows: 1 });
      expect(tables[0]?.rows).toMatchObject([
        [
          { value: 'Saw', confidence: 0.7, citation: { kind: 'PAGE', page: 2, box: [1, 2, 3, 4] } },
          {
            value: '9.50',
            type: 'DECIMAL',
            confidence: 0.9,
            citation: { kind: 'ELEMENT', path: 'table 1, row 2, cell 2' },
          },
        ],
      ]);
      for (const [status, body, code] of [
        [200, '{"version":1,"tables":[{"rows":"no"}]}', 'EXTRACTOR_UNAVAILABLE'],
        [200, 'not JSON', 'EXTRACTOR_UNAVAILABLE'],
        [500, '', 'EXTRACTOR_UNAVAILABLE'],
        [422, '', 'DOCUMENT_UNSUPPORTED'],
        [302, '', 'EXTRACTOR_UNAVAILABLE'],
      ] as const) {
        reply = { status, body };
        await expect(collect(outside.extract(request))).rejects.toMatchObject({ code });
      }
      await expect(collect(forbidden.extract(request))).rejects.toMatchObject({ code: 'EXTRACTOR_UNAVAILABLE' });
      // Answers lie beside the document for as long as they are read.
      expect(await readdir(path.dirname(file))).toEqual(beside);
    } finally {
      await Promise.all([outside.close(), forbidden.close()]);
      server.close();
    }
  });
});
