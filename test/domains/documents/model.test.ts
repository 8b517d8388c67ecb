import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { rowId } from '../../../src/kernel/graphql/global-id.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import { pdfPages } from '../../support/documents.ts';
import { says, startLlm, type LlmServer } from '../../support/llm.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { isOver, jobWhere, mutate, submit, upload, type JobState } from './harness.ts';

// Tables that a language model finds. The model is a stand-in for an endpoint that speaks chat completions.

const key = 'sk-the-key-of-the-operator';
const daily = 4;
let llm: LlmServer;
let server: TestServer;
let ada: Person;
let of: string;
let configurationId: string;

beforeAll(async () => {
  llm = await startLlm();
  server = await startTestServer({
    SWITCHYARD_LLM_URL: llm.url,
    SWITCHYARD_LLM_KEY: key,
    SWITCHYARD_LLM_MODEL: 'stand-in',
    SWITCHYARD_LLM_DAILY: String(daily),
  });
  ada = await person(server.url);
  of = (await workspace(server.url, ada)).id;
  const made = await mutate<{ configuration: { id: string } }>(server.url, 'createConfiguration', { workspaceId: of, name: 'By a model', definition: { extractor: 'MODEL' } }, 'configuration { id }', ada); // prettier-ignore
  configurationId = made.configuration.id;
});
afterAll(async () => {
  await server.stop();
  await llm.close();
});
beforeEach(() => {
  llm.asked.length = 0;
});

const allow = (allowed: boolean, who = ada) =>
  mutate(server.url, 'setDocumentModel', { workspaceId: of, allowed }, 'documentModel { model allowed } eventCursor', who); // prettier-ignore
const ask = (documentId: string) =>
  mutate<{ __typename: string; message: string; job: { id: string } }>(server.url, 'submitExtractionJob', { documentId, configurationId }, 'job { id }', ada); // prettier-ignore
const ended = (id: string) => jobWhere(server.url, ada, id, (job) => isOver(job) || job.phase === 'NEEDS_REVIEW');
const extracted = async (documentId: string): Promise<JobState> =>
  ended(await submit(server.url, ada, { documentId, configurationId }));
const cellsOf = (jobId: string) =>
  server.running.app.db.extractedCell.findMany({
    where: { table: { jobId: rowId('Run', jobId) } },
    orderBy: [{ row: 'asc' }, { column: 'asc' }],
    select: { text: true, value: true, citation: true, confidence: true, needsReview: true },
  });

/** A page with lines of words, each at its place. */
const page = (lines: readonly string[][]): string =>
  lines
    .map((words, line) =>
      words.map((word, at) => `BT /F 12 Tf ${50 + at * 150} ${700 - line * 30} Td (${word}) Tj ET`).join('\n'),
    ) // prettier-ignore
    .join('\n');
const pdf = (salt: string) =>
  pdfPages([
    page([
      ['Item', 'Price'],
      [`Blue ${salt}`, '12.50'],
      ['Green', '3.00'],
    ]),
  ]);

test('no document is told to the model before its workspace allows it, and an administrator alone does', async () => {
  const { id } = await upload(server.url, ada, of, 'a.pdf', pdf('a'));
  expect(await ask(id)).toMatchObject({
    __typename: 'ExtractorUnavailable',
    message: expect.stringContaining('setDocumentModel') as string,
  });
  const colleague = await member(server.url, ada, of, 'MEMBER');
  expect(await allow(true, colleague)).toMatchObject({ __typename: 'Forbidden' });
  expect(await allow(true)).toMatchObject({
    documentModel: { model: 'stand-in', allowed: true },
    eventCursor: expect.any(String) as string,
  });
  expect(await allow(true)).toMatchObject({ eventCursor: null });
  expect(llm.asked).toEqual([]);
});

test('what it answers is a table, cited where it stands; what stands nowhere wants a review', async () => {
  const { id } = await upload(server.url, ada, of, 'b.pdf', pdf('b'));
  const rows = [['Item', 'Price'], ['Blue  b', '12.50'], ['Green', '3.00'], ['Red', '99.00']]; // prettier-ignore
  llm.answer = (_, res) => says(res, { tables: [{ name: 'Prices', headerRows: 1, rows }] });
  const job = await extracted(id);
  expect(job).toMatchObject({ phase: 'NEEDS_REVIEW', tableCount: 1, rowCount: 3, reviewCount: 2 });
  expect(llm.asked).toHaveLength(1);
  expect(llm.asked[0]?.text).toContain('Item  Price\nBlue b  12.50\nGreen  3.00');
  expect(JSON.stringify(llm.asked[0]?.raw)).not.toContain(key);
  const cells = await cellsOf(job.id);
  expect(cells.map(({ text }) => text)).toEqual(['Blue  b', '12.50', 'Green', '3.00', 'Red', '99.00']);
  expect(cells.map(({ needsReview }) => needsReview)).toEqual([false, false, false, false, true, true]);
  expect(cells[1]).toMatchObject({ value: '12.50', confidence: 0.9 });
  // The box is where the words are: 700 - 30 from the bottom of a page of 842.
  const { kind, page: at, box } = (cells[1]?.citation ?? {}) as { kind?: string; page?: number; box?: number[] };
  expect([kind, at]).toEqual(['PAGE', 1]);
  const [left = 0, top = 0, , height = 0] = box ?? [];
  expect(left).toBeCloseTo(200, 0);
  expect(top + height).toBeGreaterThan(842 - 672);
  expect(top).toBeLessThan(842 - 670);
  expect(cells[4]?.citation).toMatchObject({ kind: 'ELEMENT' });
});

test('a sheet is cited by its cells, and an answer that is none is a typed error', async () => {
  const { id } = await upload(server.url, ada, of, 'c.csv', 'City,People\nBern,134\nZug,31\n');
  llm.answer = (_, res) => says(res, { tables: [{ name: 'Cities', headerRows: 1, rows: [['City', 'People'], ['Zug', '31']] }] }); // prettier-ignore
  const job = await extracted(id);
  expect(job).toMatchObject({ phase: 'SUCCEEDED', rowCount: 1 });
  expect((await cellsOf(job.id)).map(({ citation }) => citation)).toEqual([
    { kind: 'LINE', line: 3, column: 1 },
    { kind: 'LINE', line: 3, column: 2 },
  ]);
  llm.answer = (_, res) => says(res, { tables: 'none' });
  expect(await extracted(id)).toMatchObject({ status: 'FAILED', errorCode: 'EXTRACTOR_UNAVAILABLE', tableCount: 0 });
});

test('a workspace has so many a day, and takes it back', async () => {
  const { id } = await upload(server.url, ada, of, 'd.pdf', pdf('d'));
  // Held where it is asked.
  const asked = Promise.withResolvers<() => void>();
  llm.answer = (_, res) => asked.resolve(() => says(res, { tables: [] }));
  const first = await submit(server.url, ada, { documentId: id, configurationId });
  const answer = await asked.promise;
  const another = await upload(server.url, ada, of, 'e.pdf', pdf('e'));
  expect(await ask(another.id)).toMatchObject({ __typename: 'RateLimited' });
  expect((await allow(false)).__typename).toBe('SetDocumentModelSuccess');
  expect((await ask(another.id)).__typename).toBe('ExtractorUnavailable');
  answer();
  expect(await ended(first)).toMatchObject({ status: 'SUCCEEDED', tableCount: 0 });
  expect(llm.asked).toHaveLength(1);
});
