import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import pg from 'pg';
import { maintainDocuments } from '../../src/domains/documents/service/maintenance.ts';
import { acquireEmbeddedPostgres, type EmbeddedPostgres } from '../../src/kernel/db/embedded/index.ts';
import { migrate } from '../../src/kernel/db/migrate.ts';
import { globalId, rowId } from '../../src/kernel/graphql/global-id.ts';
import { createLogger } from '../../src/kernel/log.ts';
import { cleanUp } from '../../src/kernel/maintenance.ts';
import { removeOrphans } from '../../src/kernel/storage/orphans.ts';
import {
  csv,
  isOver,
  jobOf,
  mutate,
  put,
  register,
  submit,
  upload,
  type JobState,
} from '../domains/documents/harness.ts';
import { person, workspace, type Person } from '../support/actors.ts';
import { suiteStateDirs, until } from '../support/embedded.ts';
import { credentials, refuse, startMeddler, startS3rver, type Meddler, type TestS3 } from '../support/s3.ts';
import { spawnServer, startTestServer, type ServerProcess, type TestServer } from '../support/server.ts';

// The database and the storage of files fail in the middle of an extraction and of an export: nothing is there by half,
// what is left is gone after the next clean-up, and the run goes on, or has failed with a code and succeeds when it is
// asked for again. PostgreSQL is one of this file's own, and the storage an S3 server behind one that meddles.

/** Liveness bound, milliseconds: a lost lease of 4 s is taken over in less than 15 s. */
const livenessMs = 60_000;
const log = createLogger('silent');
let cluster: Awaited<ReturnType<typeof suiteStateDirs>>;
let postgres: EmbeddedPostgres;
let s3: TestS3;
let storage: Meddler;
let server: TestServer;
let worker: ServerProcess;
let ada: Person;
let of: string;
const rows = 20_000;

let door: Server;
const through = new Set<Socket>();
/** An address of the database that stays the same: a killed server may come back on another port. @returns the port */
async function standBefore(): Promise<number> {
  door = createServer((inward) => {
    const { hostname, port } = new URL(postgres.url);
    const outward = connect({ host: hostname, port: Number(port) });
    for (const [one, other] of [[inward, outward], [outward, inward]] as const) {
      through.add(one);
      one.on('error', () => undefined); // `close` follows
      one.on('close', () => {
        through.delete(one);
        other.destroy();
      });
    } // prettier-ignore
    inward.pipe(outward).pipe(inward);
  });
  door.listen(0, '127.0.0.1');
  await once(door, 'listening');
  return (door.address() as AddressInfo).port;
}

beforeAll(async () => {
  cluster = await suiteStateDirs();
  postgres = await acquireEmbeddedPostgres({ ...cluster, log });
  const admin = new pg.Client({ connectionString: postgres.url });
  await admin.connect();
  await admin.query('create database outages');
  await admin.end();
  const url = new URL(postgres.url);
  url.pathname = '/outages';
  url.port = String(await standBefore());
  await migrate(url.href, { log });
  s3 = await startS3rver();
  storage = await startMeddler(s3.endpoint);
  server = await startTestServer(
    {
      SWITCHYARD_ROLES: 'api',
      SWITCHYARD_PROCESS_DRIVER: 'false',
      SWITCHYARD_RUN_LEASE_S: '4',
      SWITCHYARD_BLOBS: 's3',
      SWITCHYARD_S3_BUCKET: s3.bucket,
      SWITCHYARD_S3_REGION: 'us-east-1',
      SWITCHYARD_S3_ENDPOINT: storage.endpoint,
      SWITCHYARD_S3_PATH_STYLE: 'true',
      SWITCHYARD_S3_DOWNLOADS: 'through',
      SWITCHYARD_S3_ACCESS_KEY_ID: credentials.accessKeyId,
      SWITCHYARD_S3_SECRET_ACCESS_KEY: credentials.secretAccessKey,
    },
    {},
    { url: url.href, drop: async () => undefined },
  );
  ada = await person(server.url);
  of = (await workspace(server.url, ada)).id;
  worker = await spawnServer({ ...server.env, SWITCHYARD_ROLES: 'worker' });
});
afterAll(async () => {
  await worker.kill('SIGKILL');
  await server.stop();
  await storage.stop();
  await s3.stop();
  for (const one of through) one.destroy();
  door.close();
  await postgres.release();
  await cluster.remove();
});
afterEach(() => {
  storage.mishap = null;
});

const app = () => server.running.app;
/** The API has to find new connections first. */
const over = async (id: string): Promise<JobState> => {
  let job: JobState | null = null;
  const find = async () => (job = await jobOf(server.url, ada, id).catch(() => null)) !== null && isOver(job);
  await until('the job is over', find, livenessMs);
  return job as unknown as JobState;
};
const cellsOf = (id: string) => app().db.extractedCell.count({ where: { table: { jobId: rowId('Run', id) } } });

/** kill -9 of the server with all its sessions, and its return. */
async function killPostgres(): Promise<void> {
  process.kill(postgres.pid, 'SIGKILL');
  await postgres.lost;
  await postgres.release();
  postgres = await acquireEmbeddedPostgres({ ...cluster, log });
}

async function exported(jobId: string): Promise<string> {
  const made = await mutate<{ __typename: string; message?: string; export: { id: string } }>(server.url, 'exportTables', { jobId, format: 'JSON_LINES' }, 'export { id }', ada); // prettier-ignore
  if (made.__typename !== 'ExportTablesSuccess') throw new Error(made.message);
  return made.export.id;
}
const runOf = (id: string) =>
  app().db.run.findUniqueOrThrow({ where: { id: rowId('TableExport', id) }, include: { tableExport: true } });
async function exportOver(id: string) {
  await until('the export is over', async () => isOver(await runOf(id).catch(() => ({ status: '' }))), livenessMs);
  return runOf(id);
}

/** Nothing is there by half: rows of files and the objects of the store are the same, and belong to something. */
async function isWhole(): Promise<void> {
  const files = await app().db.artifact.findMany({ include: { document: true } });
  expect(files.filter(({ status, document }) => status !== 'READY' || !document)).toEqual([]);
  const stored: string[] = [];
  for await (const { key } of app().blobs.list(new Date(Date.now() + 60_000))) stored.push(key);
  expect(stored.toSorted()).toEqual(files.map(({ id }) => id).toSorted());
  const copies = path.join(server.stateDir, 'documents');
  expect((await readdir(copies, { recursive: true, withFileTypes: true })).filter((one) => one.isFile())).toEqual([]);
}

/** What the clocks do, as if a day had passed. */
async function maintain(): Promise<void> {
  const signal = AbortSignal.timeout(livenessMs);
  await app().db.artifact.updateMany({
    where: { OR: [{ status: 'PENDING' }, { document: null }] },
    data: { createdAt: new Date(Date.now() - 25 * 3_600_000) },
  });
  for (const job of [cleanUp, maintainDocuments]) await job.handle({}, { app: app(), signal, attempt: 1 });
  await app().blobs.sweep(new Date(Date.now() + 60_000));
  await removeOrphans(app(), signal, { before: new Date(Date.now() + 60_000) });
}

test('PostgreSQL is killed in the middle of an extraction, and of an export: both go on', async () => {
  const document = await upload(server.url, ada, of, 'killed.csv', csv(rows, 'killed'));
  const id = await submit(server.url, ada, { documentId: document.id });
  await until('something is stored', async () => (await cellsOf(id)) > 0, livenessMs);
  const artifact = await put(server.url, ada, of, { name: 'meanwhile.csv', bytes: 'a,b\n1,2\n' });
  const registering = register(server.url, ada, artifact).catch((error: unknown) => error);
  await killPostgres();
  await registering;
  expect(await over(id)).toMatchObject({ status: 'SUCCEEDED', rowCount: rows, cellCount: rows * 3, tableCount: 1 });
  expect(await cellsOf(id)).toBe(rows * 3);
  expect(await app().db.extractedTable.count({ where: { jobId: rowId('Run', id) } })).toBe(1);
  // Registered or not: the same once more either way.
  expect((await register(server.url, ada, artifact)).__typename).toBe('UploadDocumentSuccess');
  expect(await app().db.document.count({ where: { artifactId: rowId('Artifact', artifact) } })).toBe(1);

  // The storage takes the first bytes and says nothing more, so that the export is in the middle of it.
  const writing = Promise.withResolvers<() => void>();
  storage.mishap = (req, res) => {
    if (req.method !== 'PUT') return false;
    storage.mishap = null;
    req.once('data', () => writing.resolve(() => res.destroy()));
    return true;
  };
  const exporting = await exported(id);
  const cut = await writing.promise;
  await killPostgres();
  cut();
  const made = await exportOver(exporting);
  expect(made).toMatchObject({ status: 'SUCCEEDED' });
  expect(await app().db.document.count({ where: { source: 'EXPORT' } })).toBe(1);
  await maintain();
  await isWhole();
});

test('the storage fails in the middle of an export: it fails with a code, nothing is left, and a retry succeeds', async () => {
  const document = await upload(server.url, ada, of, 'away.csv', csv(500, 'away'));
  const id = await submit(server.url, ada, { documentId: document.id });
  expect(await over(id)).toMatchObject({ status: 'SUCCEEDED' });
  const documents = await app().db.document.count();
  // The first bytes arrive, then nothing more; nor is what has arrived removed.
  storage.mishap = (req, res) => {
    if (req.method === 'PUT') req.once('data', () => res.destroy());
    else refuse(req, res, 503, 'SlowDown');
    return true;
  };
  const exporting = await exported(id);
  const failed = await exportOver(exporting);
  expect(failed).toMatchObject({
    status: 'FAILED',
    statusReason: expect.stringContaining('storage of files') as string,
  });
  expect(failed.tableExport?.documentId).toBeNull();
  expect(await app().db.document.count()).toBe(documents);
  expect(await app().db.artifact.count({ where: { runId: failed.id } })).toBe(0);
  storage.mishap = null;
  await maintain();
  await isWhole();
  const again = await mutate<{ run: { id: string } }>(server.url, 'retryRun', { id: globalId('TableExport', failed.id) }, 'run { id }', ada); // prettier-ignore
  const retried = await exportOver(again.run.id);
  expect(retried).toMatchObject({ status: 'SUCCEEDED' });
  expect(retried.tableExport?.documentId).not.toBeNull();
  await isWhole();
});

test('the storage fails while a document is read: the job says so, and a retry reads it', async () => {
  const document = await upload(server.url, ada, of, 'read.csv', csv(1, 'read'));
  storage.mishap = (req, res) => {
    refuse(req, res, 503, 'SlowDown');
    return true;
  };
  const id = await submit(server.url, ada, { documentId: document.id });
  expect(await over(id)).toMatchObject({ status: 'FAILED', errorCode: 'STORAGE_UNAVAILABLE' });
  const refused = await register(server.url, ada, await announced());
  expect(refused.__typename).not.toBe('UploadDocumentSuccess');
  storage.mishap = null;
  const again = await mutate<{ run: { id: string } }>(server.url, 'retryRun', { id }, 'run { id }', ada);
  expect(await over(again.run.id)).toMatchObject({ status: 'SUCCEEDED', rowCount: 1 });
  await maintain();
  await isWhole();
});

/** An upload whose bytes do not arrive. */
async function announced(): Promise<string> {
  const bytes = 'c,d\n3,4\n';
  await expect(put(server.url, ada, of, { name: 'none.csv', bytes })).rejects.toThrow('PUT answered 503');
  return put(server.url, ada, of, { name: 'none.csv', bytes }, true);
}
