import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { Client } from 'pg';
import { expect, onTestFinished, test, vi } from 'vitest';
import { acquireEmbeddedPostgres } from '../../../src/kernel/db/embedded/index.ts';
import { createLogger } from '../../../src/kernel/log.ts';
import { isAlive, type ProcessIdentity } from '../../../src/kernel/processes/children.ts';
import { createPortFinder } from '../../../src/integrations/process/ports.ts';
import { ensureProxy, writeDatabaseUrl, type ProxyOptions } from '../../../src/integrations/process/proxy/client.ts';
import { temporaryFolder, temporaryStateDirs, until } from '../../support/embedded.ts';

vi.setConfig({ testTimeout: 40_000 });

const log = createLogger('silent');
const freePort = createPortFinder({ from: 30_000, to: 32_000 });
/** Nobody answers here. */
const awayUrl = 'postgresql://nobody:x@127.0.0.1:1/none';

// The columns that the proxy reads, as in prisma/schema/deployments.prisma.
const tables = `
  create table run (id uuid primary key, completed_at timestamptz);
  create table release (id uuid primary key, instance_port integer, instance_uid integer, instance_host varchar(15));
  create table application (id uuid primary key, host_id uuid, port integer, active_release_id uuid, route_version integer not null default 0,
    address_run_id uuid);`;

async function serve(text: string): Promise<number> {
  const server = createServer((_request, response) => void response.end(text));
  const port = await freePort();
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return port;
}

const get = async (port: number): Promise<string> => await (await fetch(`http://127.0.0.1:${port}/`)).text();

async function startProxy(options: Omit<ProxyOptions, 'nodeBinary' | 'log'>) {
  const proxy = await ensureProxy({ ...options, nodeBinary: process.execPath, log });
  onTestFinished(() => proxy.stop());
  const record: ProcessIdentity & { version: number } = JSON.parse(
    await readFile(join(options.hostDir, 'proxy/proxy.json'), 'utf8'),
  );
  return { proxy, record };
}

test('follows the database, outlives it, and serves from its file after a restart', async () => {
  const dirs = await temporaryStateDirs();
  const postgres = await acquireEmbeddedPostgres({ ...dirs, log });
  onTestFinished(() => postgres.release());
  const client = new Client({ connectionString: postgres.url });
  client.on('error', () => undefined);
  await client.connect();
  onTestFinished(() => client.end().catch(() => undefined));
  await client.query(tables);
  const [applicationId, first, second, hostId] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
  const runId = randomUUID();
  const [one, two, address] = [await serve('one'), await serve('two'), await freePort()];
  await client.query('insert into release values ($1, $2, null), ($3, $4, null)', [first, one, second, two]);
  await client.query('insert into run values ($1, null)', [runId]);
  await client.query('insert into application values ($1, $2, $3, null, 0, $4)', [
    applicationId,
    hostId,
    address,
    runId,
  ]);
  await client.query('insert into application values ($1, $2, $3, null, 0)', [
    randomUUID(),
    randomUUID(),
    await freePort(),
  ]);

  const hostDir = join(await temporaryFolder(), 'host');
  const { proxy, record } = await startProxy({ hostDir, hostId, databaseUrl: postgres.url });
  expect(proxy.adopted).toBe(false);
  for (const file of ['database-url', 'control.sock', 'config.json', 'proxy.log']) {
    expect((await stat(join(hostDir, 'proxy', file))).mode & 0o077 & (file === 'control.sock' ? 0 : 0o077)).toBe(0);
  }
  expect((await stat(join(hostDir, 'proxy'))).mode & 0o777).toBe(0o700);
  await until('the database is connected', async () => (await proxy.sync()).databaseError === null);
  // Reserved by a run that is not over, and by no other.
  expect((await proxy.sync()).rows).toEqual([
    {
      port: address,
      applicationId,
      upstreamHost: null,
      upstreamPort: null,
      upstreamUid: null,
      version: 0,
      problem: null,
    },
  ]);
  expect(await get(address)).toBe('This application has no active release.\n');
  await client.query('update run set completed_at = now()');
  expect((await proxy.sync()).rows).toEqual([]);
  await expect(fetch(`http://127.0.0.1:${address}/`)).rejects.toThrow('fetch failed');

  const activate = 'update application set active_release_id = $2, route_version = route_version + 1 where id = $1';
  await client.query(activate, [applicationId, first]);
  await client.query("select pg_notify('switchyard_routes', '')");
  await until('the switch is followed by itself', async () => (await get(address).catch(() => '')) === 'one');
  await client.query(activate, [applicationId, second]);
  const status = await proxy.sync();
  expect(status.rows[0]).toMatchObject({ upstreamPort: two, version: 2 });
  expect(status).toMatchObject({ inFlight: [], databaseError: null, hostId });
  expect(await get(address)).toBe('two');
  await client.query(activate, [applicationId, first]); // no word of it: the poll
  await until('the switch is found', async () => (await get(address)) === 'one');

  // Another worker of the host finds it.
  const other = await startProxy({ hostDir, hostId, databaseUrl: postgres.url });
  expect(other.proxy.adopted).toBe(true);
  expect(other.record).toEqual(record);

  // The database goes away, and comes back under another name.
  await writeDatabaseUrl(hostDir, awayUrl);
  await until('the proxy notices', async () => (await proxy.status()).databaseError !== null);
  expect(await get(address)).toBe('one');
  await client.query(activate, [applicationId, second]);
  expect((await proxy.sync()).rows[0]).toMatchObject({ upstreamPort: one });
  await writeDatabaseUrl(hostDir, `${postgres.url}?application_name=other`);
  await until('the proxy is back', async () => (await get(address)) === 'two');

  // The connection is cut.
  await client.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name <> '' and pid <> pg_backend_pid()",
  );
  await client.query(activate, [applicationId, first]);
  await until('the proxy is back again', async () => (await get(address)) === 'one');

  // Killed while the database is away: the file knows.
  await writeDatabaseUrl(hostDir, awayUrl);
  process.kill(record.pid, 'SIGKILL');
  await until('it is dead', async () => !(await isAlive(record)));
  await expect(proxy.sync()).rejects.toThrow('does not run');
  const again = await startProxy({ hostDir, hostId, databaseUrl: awayUrl });
  expect(again.proxy.adopted).toBe(false);
  expect(again.record.pid).not.toBe(record.pid);
  expect(await get(address)).toBe('one');
  await again.proxy.stop();
  expect(await isAlive(again.record)).toBe(false);
  await expect(fetch(`http://127.0.0.1:${address}/`)).rejects.toThrow('fetch failed');
});

test('one of another version is replaced when it is idle, and a deaf one always', async () => {
  // Also: a folder that is too deep for the name of a socket.
  const hostDir = join(await temporaryFolder(), 'x'.repeat(120));
  const hostId = randomUUID();
  const upstream = await serve('up');
  const address = await freePort();
  await mkdir(join(hostDir, 'proxy'), { recursive: true, mode: 0o700 });
  const row = { port: address, applicationId: randomUUID(), upstreamPort: upstream, upstreamUid: null, version: 1 };
  await writeFile(join(hostDir, 'proxy/routes.json'), JSON.stringify({ hostId, routes: [row] }));
  const options = { hostDir, hostId, databaseUrl: awayUrl };
  const first = await startProxy(options);
  expect(await get(address)).toBe('up');

  await writeFile(
    join(hostDir, 'proxy/proxy.json'),
    JSON.stringify({ ...first.record, version: first.record.version - 1 }),
  );
  const second = await startProxy(options);
  expect(second.proxy.adopted).toBe(false);
  expect(await isAlive(first.record)).toBe(false);
  await until('the address is open again', async () => (await second.proxy.status()).rows[0]?.problem === null);
  expect(await get(address)).toBe('up');

  // Two start at once: one gives way.
  const lone = { ...second.record, pid: 1, startTime: 'none:1' };
  await writeFile(join(hostDir, 'proxy/proxy.json'), JSON.stringify(lone));
  await until('it gives way to another', async () => !(await isAlive(second.record)));
  const third = await startProxy(options);
  expect(await get(address)).toBe('up');
  await third.proxy.stop();
  await third.proxy.stop();
});
