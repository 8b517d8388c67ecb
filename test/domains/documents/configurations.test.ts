import { afterAll, beforeAll, expect, test } from 'vitest';
import { rowId } from '../../../src/kernel/graphql/global-id.ts';
import { listProcesses } from '../../../src/kernel/processes/children.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import { data, headersOf } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { csv, isOver, jobWhere, livenessMs, mutate, submit, upload, type Outcome } from './harness.ts';

let server: TestServer;
let ada: Person;
let of: string;
beforeAll(async () => {
  server = await startTestServer();
  ada = await person(server.url);
  of = (await workspace(server.url, ada)).id;
});
afterAll(() => server.stop());

const app = () => server.running.app;
type Answer = Outcome & {
  configuration: { id: string; version: number };
  currentVersion: number;
  issues: { path: string }[];
  eventCursor: string | null;
};
const ask = 'configuration { id version } eventCursor';
const create = (name: string, definition: object, who = ada, workspaceId = of) =>
  mutate<Answer>(server.url, 'createConfiguration', { workspaceId, name, definition }, ask, who);
const update = (input: object, who = ada) => mutate<Answer>(server.url, 'updateConfiguration', input, ask, who);
interface PreviewAnswer extends Record<string, unknown> {
  readonly __typename: string;
  readonly tables: {
    name: string;
    columns: { name: string; type: string }[];
    rows: { text: string; value: string; confidence: number; citation: object }[][];
  }[];
  readonly truncated: boolean;
}
const preview = (input: object, who = ada) =>
  mutate<PreviewAnswer>(
    server.url,
    'previewExtraction',
    input,
    'truncated tables { name columns { name type } rows { text value confidence citation } } warnings { code }',
    who,
  );

test('a configuration has versions that never change, and is changed by who has seen the last one', async () => {
  const made = await create('figures', {
    headerRows: 1,
    locale: 'de-CH',
    columns: [
      { name: 'id', type: 'INTEGER' },
      { name: 'name', required: true },
    ],
    areas: [{ page: 1, box: { x: 1, y: 2, width: 300, height: 400 } }],
  });
  expect(made).toMatchObject({ configuration: { version: 1 }, eventCursor: expect.any(String) as string });
  const { id } = made.configuration;
  expect(await create('figures', {})).toMatchObject({ __typename: 'Conflict' });
  expect(await update({ id, expectedVersion: 1, definition: { minConfidence: 0.9 } })).toMatchObject({
    configuration: { version: 2 },
  });
  expect(await update({ id, expectedVersion: 1, name: 'late' })).toMatchObject({
    __typename: 'ConfigurationConflict',
    currentVersion: 2,
  });
  // Of two who change the same version one is late.
  const both = await Promise.all(['a', 'b'].map((name) => update({ id, expectedVersion: 2, name })));
  expect(both.map((one) => one.__typename).toSorted()).toEqual(['ConfigurationConflict', 'UpdateConfigurationSuccess']);
  const { node } = await data<{ node: object }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on ExtractionConfiguration { version definition { minConfidence }
      versions { totalCount nodes { version createdBy { id } definition { locale columns { name type required } areas { page box { x y width height } } minConfidence } } }
      events { nodes { type data } } } } }`,
    { id },
    ada,
  );
  expect(node).toMatchObject({
    version: 3,
    definition: { minConfidence: 0.9 },
    versions: {
      totalCount: 3,
      nodes: [
        { version: 3, definition: { minConfidence: 0.9 } },
        { version: 2, definition: { minConfidence: 0.9, columns: null } },
        {
          version: 1,
          createdBy: { id: ada.id },
          definition: {
            locale: 'de-CH',
            columns: [
              { name: 'id', type: 'INTEGER', required: false },
              { name: 'name', type: null, required: true },
            ],
            areas: [{ page: 1, box: { x: 1, y: 2, width: 300, height: 400 } }],
          },
        },
      ],
    },
    events: {
      nodes: [
        { type: 'extractionConfiguration.created', data: { version: 1 } },
        { type: 'extractionConfiguration.updated', data: { version: 2 } },
        { type: 'extractionConfiguration.updated', data: { version: 3 } },
      ],
    },
  });
});

test.for([
  ['pages', { pages: '3-1' }],
  ['locale', { locale: 'no locale' }],
  ['timeZone', { timeZone: 'Mars/Olympus' }],
  ['encoding', { encoding: 'utf-99' }],
  ['delimiter', { delimiter: '\n' }],
  ['headerRows', { headerRows: 11 }],
  ['columns', { columns: [{ name: 'a' }, { name: 'a' }] }],
  ['minConfidence', { minConfidence: 2 }],
] as const)('a definition whose %s is wrong is refused, and says where', async ([where, definition]) => {
  const answer = await create('wrong', definition);
  expect(answer.__typename).toBe('ValidationError');
  expect(answer.issues[0]?.path).toContain(`definition.${where}`);
});

test('one that was put away takes no jobs, and its name is free', async () => {
  const { configuration } = await create('put away', {});
  const archive = (who = ada) => mutate<Answer>(server.url, 'archiveConfiguration', { id: configuration.id }, ask, who);
  expect(await archive(await member(server.url, ada, of, 'VIEWER'))).toMatchObject({ __typename: 'Forbidden' });
  expect(await archive(await person(server.url, 'Eve'))).toMatchObject({ __typename: 'NotFound' });
  expect((await archive()).eventCursor).not.toBeNull();
  expect((await archive()).eventCursor).toBeNull();
  const document = await upload(server.url, ada, of, 'a.csv', csv(5, 'away'));
  const input = { documentId: document.id, configurationId: configuration.id };
  expect(await mutate(server.url, 'submitExtractionJob', input, 'job { id }', ada)).toMatchObject({
    __typename: 'Conflict',
  });
  expect(await update({ id: configuration.id, expectedVersion: 1, name: 'x' })).toMatchObject({
    __typename: 'Conflict',
  });
  expect((await create('put away', {})).__typename).toBe('CreateConfigurationSuccess');
  const names = async (args: string) =>
    (
      await data<{ node: { extractionConfigurations: { nodes: { id: string }[] } } }>(
        server.url,
        `query ($id: ID!) { node(id: $id) { ... on Workspace { extractionConfigurations${args} { nodes { id } } } } }`,
        { id: of },
        ada,
      )
    ).node.extractionConfigurations.nodes.map(({ id }) => id);
  expect(await names('')).not.toContain(configuration.id);
  expect(await names('(archived: true)')).toEqual([configuration.id]);
});

test('a job keeps the version that it was asked for with', async () => {
  const { configuration } = await create('named', { headerRows: 1, columns: [{ name: 'number', type: 'TEXT' }] });
  await update({
    id: configuration.id,
    expectedVersion: 1,
    definition: { headerRows: 1, columns: [{ name: 'second' }] },
  });
  const document = await upload(server.url, ada, of, 'a.csv', csv(5, 'version'));
  const columnsOf = async (version?: number) => {
    const id = await submit(server.url, ada, {
      documentId: document.id,
      configurationId: configuration.id,
      ...(version ? { configurationVersion: version } : {}),
    });
    expect(await jobWhere(server.url, ada, id, isOver)).toMatchObject({ status: 'SUCCEEDED' });
    const columns = await app().db.extractedColumn.findMany({
      where: { table: { jobId: rowId('Run', id) } },
      orderBy: { position: 'asc' },
    });
    return columns.map(({ name, type }) => ({ name, type }));
  };
  expect((await columnsOf(1))[0]).toEqual({ name: 'number', type: 'TEXT' });
  expect((await columnsOf())[0]?.name).toBe('second');
  const input = { documentId: document.id, configurationId: configuration.id, configurationVersion: 3 };
  expect(await mutate(server.url, 'submitExtractionJob', input, 'job { id }', ada)).toMatchObject({
    __typename: 'ValidationError',
  });
});

test('a preview tells what a definition makes of a document, and stores nothing', async () => {
  const document = await upload(server.url, ada, of, 'a.csv', csv(5_000, 'preview'));
  const answer = await preview({ documentId: document.id, rows: 3 });
  expect(answer).toMatchObject({ __typename: 'PreviewExtractionSuccess', truncated: false });
  const [table] = answer.tables;
  expect(table?.columns).toEqual([
    { name: 'id', type: 'INTEGER' },
    { name: 'name', type: 'TEXT' },
    { name: 'amount', type: 'DECIMAL' },
  ]);
  expect(table?.rows).toHaveLength(3);
  expect(table?.rows[1]?.[2]).toMatchObject({
    text: '1.25',
    value: '1.25',
    citation: { kind: 'LINE', line: 3, column: 3 },
  });
  // A definition that is tried before it is saved, and one that was.
  const named = await preview({
    documentId: document.id,
    rows: 1,
    definition: { columns: [{ name: 'n', type: 'TEXT' }] },
  });
  expect(named.tables[0]?.columns[0]).toEqual({ name: 'n', type: 'TEXT' });
  const { configuration } = await create('preview', { headerRows: 0 });
  const headless = await preview({ documentId: document.id, rows: 1, configurationId: configuration.id });
  expect(headless.tables[0]?.rows[0]?.[0]?.text).toBe('id');
  expect(await preview({ documentId: document.id, configurationId: configuration.id, definition: {} })).toMatchObject({
    __typename: 'ValidationError',
  });
  expect(await preview({ documentId: document.id, definition: { extractor: 'MODEL' } })).toMatchObject({
    __typename: 'ExtractorUnavailable',
  });
  expect(await preview({ documentId: document.id }, await member(server.url, ada, of, 'VIEWER'))).toMatchObject({
    __typename: 'Forbidden',
  });
  expect(await preview({ documentId: document.id }, await person(server.url, 'Eve'))).toMatchObject({
    __typename: 'NotFound',
  });
  expect(await app().db.run.count({ where: { extractionJob: { documentId: rowId('Document', document.id) } } })).toBe(
    0,
  );
});

test('a preview of what is wide, has many tables or long texts gives the first of them', async () => {
  const wide = Array.from({ length: 600 }, (_, row) => Array.from({ length: 100 }, (__, at) => row + at).join(','));
  const one = await upload(server.url, ada, of, 'wide.csv', wide.join('\n'));
  const first = await preview({ documentId: one.id, rows: 100 });
  expect(first).toMatchObject({ __typename: 'PreviewExtractionSuccess', truncated: false });
  expect(first.tables[0]?.rows).toHaveLength(50);
  const many = '<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>'.repeat(60);
  const other = await preview({ documentId: (await upload(server.url, ada, of, 'many.html', many)).id });
  expect(other).toMatchObject({ __typename: 'PreviewExtractionSuccess', truncated: true });
  expect(other.tables).toHaveLength(50);
  const long = Array.from({ length: 30 }, (_, row) => `${row},${'x'.repeat(90_000)}`).join('\n');
  const last = await preview({
    documentId: (await upload(server.url, ada, of, 'long.csv', `a,b\n${long}`)).id,
    rows: 30,
  });
  expect(last.tables[0]?.rows).toHaveLength(12);
});

test('a preview ends when nobody waits for it', async () => {
  const document = await upload(server.url, ada, of, 'large.csv', csv(100_000, 'left'));
  const children = async () =>
    (await listProcesses())
      .filter(({ parentPid, zombie }) => parentPid === process.pid && !zombie)
      .map(({ pid }) => pid);
  const before = new Set(await children());
  const readers = async () => (await children()).filter((pid) => !before.has(pid));
  const leave = new AbortController();
  const request = fetch(server.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headersOf(ada) },
    body: JSON.stringify({
      query: 'mutation ($input: PreviewExtractionInput!) { previewExtraction(input: $input) { __typename } }',
      variables: { input: { documentId: document.id } },
    }),
    signal: leave.signal,
  }).catch((error: unknown) => error);
  let reader: number | undefined;
  await until('it has begun', async () => ([reader] = await readers()).length > 0, livenessMs);
  // It would not end by itself before its time limit of 20 s.
  process.kill(reader ?? 0, 'SIGSTOP');
  leave.abort();
  await request;
  await until('its process is gone', async () => (await readers()).length === 0, 12_000);
  expect(await readers()).toEqual([]);
});
