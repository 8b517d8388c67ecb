/**
 * The address proxy of one host, as a program: `node main.ts <configuration file>`. It outlives API and workers.
 *
 * The routes are rows of the database. It follows them by LISTEN and a poll, keeps the last ones while the database is
 * away, and in a file, so that it serves at once when it is started again.
 */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import { z } from 'zod';
import { createLogger } from '#kernel/log.ts';
import { isAlive, processIdentity } from '#kernel/processes/children.ts';
import { lineSplitter } from '../lines.ts';
import { rotateLog, rotateLogs } from '../logs.ts';
import {
  askProxy,
  listenOnControl,
  proxyCommand,
  proxyConfig,
  proxyFiles,
  proxyRecord,
  proxyVersion,
  readIfThere,
  readJson,
  routeRow,
  routesFile,
  writePrivately,
  type ProxyStatus,
} from './protocol.ts';
import { createRouter } from './router.ts';

const channel = 'switchyard_routes';
const pollMs = 1_000;
const reconnectMs = 250;
const queryTimeoutMs = 5_000;
const rotateMs = 10_000;
const stopGraceMs = 5_000;

// What serves, or did and keeps its address while it is stopped; and what a deployment that runs is about to serve.
const routesQuery = `
  select a.id as "applicationId", a.port, r.instance_host as "upstreamHost", r.instance_port as "upstreamPort",
    r.instance_uid as "upstreamUid",
    a.route_version as "version"
  from application a left join release r on r.id = a.active_release_id
  where a.host_id = $1 and a.port is not null and (a.active_release_id is not null or a.route_version > 0
    or exists (select 1 from run where run.id = a.address_run_id and run.completed_at is null))
  order by a.port`;

const configFile = process.argv[2];
if (!configFile) throw new Error('Usage: node main.ts <configuration file>');
const config = proxyConfig.parse(JSON.parse(await readFile(configFile, 'utf8')));
const files = proxyFiles(config.hostDir);
const log = createLogger(config.logLevel, { part: 'proxy', pid: process.pid });
const router = createRouter({ log });
const ending = new AbortController();
const self = await processIdentity(process.pid);
if (!self) throw new Error('This process cannot be identified.');

/** Why the routes in force may be old; null: they were read without an error. */
let databaseError: string | null = 'The routes have not been read yet.';
let written = '';
let connection: { readonly client: Client; readonly lost: AbortController } | null = null;
let reading: Promise<void> = Promise.resolve();
let next: Promise<void> | null = null;

await replaceOlder();
const stored = await readJson(files.routes, routesFile);
if (stored?.hostId === config.hostId) await apply(stored.routes);
const control = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  socket.setTimeout(30_000, () => socket.destroy());
  const splitter = lineSplitter((line) => {
    answer(line).then(
      (status) => socket.end(`${JSON.stringify(status)}\n`),
      (error: unknown) => {
        log.warn({ err: error }, 'Control');
        socket.destroy();
      },
    );
  });
  socket.setEncoding('utf8').on('data', (chunk: string) => splitter.push(chunk));
});
await listenOnControl(config.hostDir, control);
await writePrivately(files.record, JSON.stringify({ ...self, version: proxyVersion, hostId: config.hostId }));
for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => ending.abort());
log.info({ hostId: config.hostId, routes: router.routes().size, version: proxyVersion }, 'Address proxy serves');

await Promise.all([followDatabase(), watch()]);
control.close();
await router.close(stopGraceMs);
log.info('Address proxy ended');
process.exit(0);

/** A proxy that serves this host already is asked to end, so that its addresses are free. */
async function replaceOlder(): Promise<void> {
  const older = await readJson(files.record, proxyRecord);
  if (!older || !(await isAlive(older))) return;
  await askProxy(config.hostDir, 'stop', 2_000);
  const deadline = performance.now() + stopGraceMs + 2_000;
  while ((await isAlive(older)) && performance.now() < deadline) await delay(10);
}

async function answer(line: string): Promise<ProxyStatus> {
  const { command } = proxyCommand.parse(JSON.parse(line));
  if (command === 'sync') await refresh();
  if (command === 'stop') setImmediate(() => ending.abort());
  const problems = router.problems();
  return {
    version: proxyVersion,
    pid: process.pid,
    hostId: config.hostId,
    rows: [...router.routes()].map(([port, route]) => ({
      port,
      ...route,
      upstreamHost: route.upstreamHost ?? null,
      problem: problems.get(port) ?? null,
    })),
    inFlight: router.allInFlight(),
    databaseError,
  };
}

async function apply(rows: readonly z.infer<typeof routeRow>[]): Promise<void> {
  await router.setRoutes(new Map(rows.map(({ port, ...route }) => [port, route])));
}

/** Reads the rows after everything that was committed before the call; calls that wait share the next read. */
function refresh(): Promise<void> {
  next ??= reading.then(() => {
    next = null;
    reading = read();
    return reading;
  });
  return next;
}

/** Never rejects: `databaseError` tells. */
async function read(): Promise<void> {
  if (!connection) return;
  const { client, lost } = connection;
  try {
    const { rows } = await client.query(routesQuery, [config.hostId]);
    const routes = z.array(routeRow).parse(rows);
    await apply(routes);
    databaseError = null;
    const text = JSON.stringify({ hostId: config.hostId, routes });
    if (text === written) return;
    await writePrivately(files.routes, text);
    written = text;
    log.info({ routes: routes.length }, 'Routes changed');
  } catch (error) {
    databaseError = messageOf(error);
    log.warn({ reason: databaseError }, 'The routes cannot be read, the last ones stay');
    lost.abort(); // a connection that failed once is not trusted again
  }
}

/** Connects, listens and reads; again whenever the connection ends or the URL in the file has changed. */
async function followDatabase(): Promise<void> {
  while (!ending.signal.aborted) {
    const url = await readUrl();
    if (url) await followOnce(url);
    else databaseError = 'There is no database URL.';
    await pause(reconnectMs);
  }
}

async function followOnce(url: string): Promise<void> {
  const lost = new AbortController();
  const client = new Client({
    connectionString: url,
    application_name: 'switchyard-proxy',
    connectionTimeoutMillis: 3_000,
    query_timeout: queryTimeoutMs,
    keepAlive: true,
  });
  const onLost = (reason: string): void => {
    if (!lost.signal.aborted) log.warn({ reason }, 'The database is away, the last routes stay');
    databaseError = reason;
    lost.abort();
  };
  client.on('error', (error) => onLost(error.message));
  client.on('end', () => onLost('The database connection ended.'));
  client.on('notification', () => void refresh());
  try {
    await client.connect();
    await client.query(`listen ${channel}`);
    connection = { client, lost };
    while (!lost.signal.aborted && !ending.signal.aborted) {
      await refresh();
      await pause(pollMs, lost.signal);
      if ((await readUrl()) !== url) break;
    }
  } catch (error) {
    // Once is enough for a database that stays away.
    if (databaseError === null) onLost(messageOf(error));
    databaseError = messageOf(error);
  } finally {
    connection = null;
    lost.abort();
    client.end().catch((error: unknown) => log.debug({ reason: messageOf(error) }, 'Closing the database connection'));
  }
}

async function readUrl(): Promise<string> {
  return (await readIfThere(files.databaseUrl))?.trim() ?? '';
}

/** Retries addresses that could not be opened, cuts logs, and gives way to a proxy that has taken the host over. */
async function watch(): Promise<void> {
  let rotatedAt = performance.now();
  while (!ending.signal.aborted) {
    await pause(router.problems().size > 0 ? 100 : pollMs);
    if (router.problems().size > 0) await router.setRoutes(router.routes());
    const record = await readJson(files.record, proxyRecord);
    if (!record || record.pid !== process.pid || record.startTime !== self?.startTime) {
      log.info('Another address proxy serves this host now');
      ending.abort();
    }
    if (performance.now() - rotatedAt < rotateMs) continue;
    rotatedAt = performance.now();
    // A full disk must not end the proxy.
    for (const done of await Promise.allSettled([rotateLogs(config.hostDir), rotateLog(files.log)])) {
      if (done.status === 'rejected') log.error({ reason: messageOf(done.reason) }, 'Logs cannot be cut');
    }
  }
}

/** Until the time is over, or the proxy ends, or `also` is aborted. */
async function pause(ms: number, also?: AbortSignal): Promise<void> {
  const signal = also ? AbortSignal.any([ending.signal, also]) : ending.signal;
  try {
    await delay(ms, undefined, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
