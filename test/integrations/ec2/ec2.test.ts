import { execFile } from 'node:child_process';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { createServer, request as startRequest, type IncomingMessage, type Server } from 'node:http';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import { loadConfig } from '../../../src/config.ts';
import { createEngine, DriverUnavailable } from '../../../src/integrations/docker/engine.ts';
import { openBucket, type Bucket } from '../../../src/integrations/ec2/bucket.ts';
import { createCommands } from '../../../src/integrations/ec2/commands.ts';
import { connectEc2, type Ec2 } from '../../../src/integrations/ec2/index.ts';
import { beginning, quoted, reading, toldBy, type Ask } from '../../../src/integrations/ec2/script.ts';
import { until } from '../../support/embedded.ts';
import { processListing } from '../drivers/conformance.ts';
import { credentials, startS3rver, type TestS3 } from '../../support/s3.ts';
import { testFolder } from '../../support/server.ts';
import { startFakeSsm, type FakeSsm } from '../../support/ssm.ts';

const run = promisify(execFile);
const region = 'eu-central-1';

let folder: string;
let ssm: FakeSsm;
let s3: TestS3;
let engine: Server;
let socketPath: string;
let bucket: Bucket;
let ec2: Ec2;
/** What the engine was asked, and those who went away before it had answered. */
const heard: { method: string; url: string; body: Buffer }[] = [];
const left: string[] = [];
/** Of the machine, while a request was made. */
const listings: Promise<string>[] = [];
const large = randomBytes(9 * 2 ** 20);

beforeAll(async () => {
  folder = await testFolder();
  socketPath = path.join(folder, 'engine.sock');
  ssm = await startFakeSsm();
  s3 = await startS3rver('transfer');
  engine = createServer({ maxHeaderSize: 2 ** 20 }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.once('end', () => {
      const { method = '', url = '' } = request;
      heard.push({ method, url, body: Buffer.concat(chunks) });
      if (url.startsWith('/create')) listings.push(processListing());
      response.once('close', () => response.writableFinished || left.push(url));
      if (url === '/large') response.end(large);
      else if (url === '/none') response.writeHead(204).end();
      else if (url.startsWith('/slow')) response.write('begun\n');
      else response.writeHead(url.startsWith('/missing') ? 404 : 200).end(`${method} ${url}`);
    });
  }).listen(socketPath);
  await once(engine, 'listening');
  bucket = await openBucket({ bucket: 'transfer', region, endpoint: s3.endpoint, credentials });
  ec2 = await connect();
});
afterAll(async () => {
  await ec2.close();
  bucket.close();
  engine.closeAllConnections();
  engine.close();
  await s3.stop();
  await ssm.close();
  await rm(folder, { recursive: true, force: true });
});

const connect = (more: Partial<Parameters<typeof connectEc2>[0]> = {}): Promise<Ec2> =>
  connectEc2({
    instanceId: ssm.instanceId,
    region,
    bucket: 'transfer',
    address: null,
    socketPath,
    ssmEndpoint: ssm.url,
    s3Endpoint: s3.endpoint,
    credentials,
    hostId: randomUUID(),
    folder: path.join(folder, 'ec2'),
    ports: { from: 17_000, to: 17_002 },
    waits: { commandMs: 10, everyMs: 20, quietMs: 40, answerMs: 300 },
    log: createLogger('silent'),
    ...more,
  });
const commandsOf = (more: Partial<Parameters<typeof createCommands>[0]> = {}) =>
  createCommands({ instanceId: ssm.instanceId, region, endpoint: ssm.url, credentials, firstWaitMs: 10, ...more }); // prettier-ignore

async function ask(method: string, url: string, body?: Buffer | string, type = 'application/json') {
  const sent = startRequest({ agent: ec2.agent, host: 'engine', method, path: url, headers: body === undefined ? {} : { 'content-type': type, 'transfer-encoding': 'chunked' } }); // prettier-ignore
  sent.end(body);
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return { status: response.statusCode, body: Buffer.concat(chunks) };
}
const textOf = async (...asked: Parameters<typeof ask>) => (await ask(...asked)).body.toString();
const history = (): string => JSON.stringify(ssm.history);
const foldersWithFiles = async (): Promise<string[]> => {
  const ours = (await readdir('/var/tmp')).filter((name) => name.startsWith('switchyard.'));
  const known = ours.filter((name) => history().includes(name));
  const full = await Promise.all(known.map(async (one) => ((await readdir(path.join('/var/tmp', one))).length ? one : ''))); // prettier-ignore
  return full.filter(Boolean);
};

test('a word of the shell is the text that it was, whatever it holds', async () => {
  const hostile = [
    '', ' ', `a'b`, `'; touch x; '`, '$(id)', '`id`', '"$HOME"', '\\', `\\'`, 'line\nline\n', '-n', '--', '*', '~', '#', '!!', '&|<>;',
    '{{ssm:/secret}}', '{{{{ssm-secure:x}}}}', 'ü\u{1f600}', '\u0001\u007f', '%s%n', "'".repeat(50),
  ]; // prettier-ignore
  for (const text of hostile) expect(quoted(text)).not.toContain('{{');
  const script = `for one in ${hostile.map(quoted).join(' ')}; do printf '%s\\001\\002' "$one"; done`;
  const { stdout } = await run('/bin/sh', ['-c', script], { cwd: folder });
  expect(stdout.split('\u0001\u0002').slice(0, -1)).toEqual(hostile);
  expect(() => quoted('a\0b')).toThrow(TypeError);
  expect(existsSync(path.join(folder, 'x'))).toBe(false);
});

test('what is not an answer of the scripts is refused', () => {
  expect(toldBy('noise\nswitchyard 0 200 5 7 \n')).toEqual({ over: 0, notPut: false, status: 200, bytes: 5, size: 7, why: '' }); // prettier-ignore
  expect(toldBy('switchyard gone\n')).toBeNull();
  for (const output of ['', 'switchyard 0 200 5', 'x'.repeat(24_000), 'switchyard 0 200 -5 7 '])
    expect(() => toldBy(output)).toThrow(/something else/);
});

test('requests reach the engine and answers come back whole, and neither is in the history of commands', async () => {
  expect(await textOf('GET', `/v1/a?filters=${encodeURIComponent(`{"label":["'$(id)"]}`)}`)).toBe(
    `GET /v1/a?filters=${encodeURIComponent(`{"label":["'$(id)"]}`)}`,
  );
  expect(await ask('GET', '/missing')).toMatchObject({ status: 404 });
  expect((await ask('DELETE', '/none')).status).toBe(204);
  expect(await textOf('POST', '/start')).toBe('POST /start');
  const long = `/long?${'x'.repeat(100_000)}`;
  expect((await textOf('POST', long, '{}')) === `POST ${long}`).toBe(true);
  expect(await textOf('POST', '/create?name=of-the-request', '{"Env":["SECRET=geheim-wie-nie"]}')).toBe(
    'POST /create?name=of-the-request',
  );
  expect(heard.at(-1)?.body.toString()).toBe('{"Env":["SECRET=geheim-wie-nie"]}');
  expect((await Promise.all(listings)).map((one) => /of-the-request|geheim-wie-nie/.test(one))).toEqual([false]);
  const { body } = await ask('GET', '/large');
  const sum = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
  expect({ length: body.length, sum: sum(body) }).toEqual({ length: large.length, sum: sum(large) });
  await ask('POST', '/build?buildargs=of-the-build', large.subarray(0, 5_000_000), 'application/tar');
  // Packed on its way; the engine unpacks it.
  expect(heard.at(-1)?.body.subarray(0, 2).toString('hex')).toBe('1f8b');
  for (const secret of ['geheim-wie-nie', 'of-the-request', 'of-the-build']) expect(history()).not.toContain(secret);
  expect(Math.max(...ssm.history.map(({ output }) => output.length))).toBeLessThan(200);
  await until('nothing is left', async () => (await foldersWithFiles()).length === 0, 5_000);
});

test('an answer that goes on is told while it does; given up, it ends there', async () => {
  const sent = startRequest({ agent: ec2.agent, host: 'engine', path: '/slow' }).end();
  sent.on('error', () => undefined); // it is destroyed here
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  const [chunk] = (await once(response, 'data')) as [Buffer];
  expect(chunk.toString()).toBe('begun\n');
  response.on('error', () => undefined);
  sent.destroy();
  await until('the engine has heard it', () => Promise.resolve(left.includes('/slow')), 10_000);
  await until('nothing is left', async () => (await foldersWithFiles()).length === 0, 5_000);
});

test('calls that are throttled, or come too early, are made again; those that are refused are told', async () => {
  ssm.faults.push(
    { operation: 'SendCommand', error: 'ThrottlingException' },
    { operation: 'GetCommandInvocation', error: 'InvocationDoesNotExist' },
    { operation: 'GetCommandInvocation', error: 'ThrottlingException' },
  );
  expect(await textOf('GET', '/again')).toBe('GET /again');
  ssm.faults.push({ operation: 'SendCommand', error: 'AccessDeniedException' });
  const refused = await ask('GET', '/refused');
  expect(refused.status).toBe(503);
  expect(refused.body.toString()).toContain('AccessDeniedException');
  expect(heard.some(({ url }) => url === '/refused')).toBe(false);
  ssm.replace = () => `${'x'.repeat(23_000)}\nswitchyard 0 200 ${'1'.repeat(2_000)}`;
  const cut = await ask('GET', '/cut');
  ssm.replace = null;
  expect(cut).toMatchObject({ status: 503 });
  expect(cut.body.toString()).toContain('something else');
});

test('what AWS says of accounts, roles and buckets is for the operators: everybody else is told what failed', async () => {
  const logged: string[] = [];
  const silent = createLogger('silent');
  const log = Object.assign(Object.create(silent) as typeof silent, {
    error: (said: unknown) => void logged.push(JSON.stringify(said)),
  });
  const message = 'User: arn:aws:sts::123456789012:assumed-role/deployer is not authorized to perform: ssm:SendCommand';
  const bucketName = 'nothing-of-123456789012';
  const there = await connect({ log, bucket: bucketName });
  const engineOf = await createEngine({ agent: there.agent });
  const failure = async (work: Parameters<typeof engineOf.ask>[0]): Promise<string> => {
    const failed: unknown = await engineOf.ask(work).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(DriverUnavailable);
    return (failed as Error).message;
  };
  const asking = () => failure((docker) => docker.ping());
  try {
    ssm.faults.push({ operation: 'SendCommand', error: 'AccessDeniedException', message });
    expect(await asking()).toContain('SSM did not take a command (AccessDeniedException)');
    expect(logged.join()).toContain(message);
    // There is no such bucket: neither what is put there arrives, nor what the instance is to put there.
    const told = [await failure((docker) => docker.createContainer({ Image: 'i' })), await asking()];
    expect(told).toEqual([
      expect.stringContaining('the bucket did not take a request (NoSuchBucket)'),
      expect.stringContaining('the instance cannot write to the bucket'),
    ]);
    expect(told.join()).not.toMatch(/arn:|123456789012|i-0123/);
    expect(logged.join()).toContain(bucketName);
  } finally {
    await there.close();
  }
});

test('a command that is given up, or takes too long, is canceled; one that fails says why', async () => {
  const commands = await commandsOf({ withinMs: 300 });
  const stop = new AbortController();
  const given = commands.run('sleep 7766', stop.signal);
  await until('it runs', () => Promise.resolve(ssm.history.at(-1)?.script === 'sleep 7766'), 5_000);
  stop.abort(new Error('given up'));
  await expect(given).rejects.toThrow('given up');
  expect(ssm.history.at(-1)?.status).toBe('Cancelled');
  await expect(commands.run('sleep 7767')).rejects.toThrow(/took longer than/);
  expect(ssm.history.at(-1)?.status).toBe('Cancelled');
  await expect(commands.run('echo why it failed >&2; exit 3')).rejects.toThrow(/Failed: why it failed/);
  commands.close();
});

describe('one request', () => {
  const made = async (more: Partial<Ask> = {}): Promise<Ask> =>
    ({ id: randomUUID(), method: 'GET', socketPath, path: '/once', contentType: 'application/json', body: null, abandonedS: 60, ...more }); // prettier-ignore
  const part = async (waitTenths = 20) => ({ offset: 0, url: await bucket.address(`t/${randomUUID()}`, 'write'), waitTenths }); // prettier-ignore

  test('that arrives twice is made once', async () => {
    const commands = await commandsOf();
    const script = beginning(await made({ path: '/once' }), await part(), []);
    await Promise.all([commands.run(script), commands.run(script)]);
    await commands.run(script);
    expect(heard.filter(({ url }) => url === '/once')).toHaveLength(1);
    commands.close();
  });

  test('whose body is another than was sent is not made', async () => {
    const commands = await commandsOf();
    const url = await bucket.address('t/body', 'read');
    await fetch(await bucket.address('t/body', 'write'), { method: 'PUT', body: '/forged\n{}' });
    const forged = await made({ method: 'POST', path: null, body: { url, sha256: '0'.repeat(64) } });
    expect(toldBy(await commands.run(beginning(forged, await part(), [])))).toMatchObject({ over: 92, status: null });
    const absent = await made({ method: 'POST', path: null, body: { url: await bucket.address('t/none', 'read'), sha256: '0'.repeat(64) } }); // prettier-ignore
    expect(toldBy(await commands.run(beginning(absent, await part(), [])))).toMatchObject({
      over: 91,
      why: expect.stringContaining('404') as string,
    });
    expect(heard.some(({ url: at }) => at === '/forged')).toBe(false);
    commands.close();
  });

  test('that nobody asks for any more ends by itself', async () => {
    const commands = await commandsOf();
    const asked = await made({ path: '/slow/abandoned', abandonedS: 1 });
    expect(toldBy(await commands.run(beginning(asked, await part(2), [])))).toMatchObject({ over: null });
    await until('the engine has heard it', () => Promise.resolve(left.includes('/slow/abandoned')), 10_000);
    expect(toldBy(await commands.run(reading(asked.id, await part(0))))).toBeNull();
    expect(existsSync(`/var/tmp/switchyard.${asked.id}`)).toBe(false);
    commands.close();
  });
});

test('a server does not start when the instance cannot be used, and says what is wrong', async () => {
  const usual = ssm.instance;
  ssm.instance = null;
  await expect(connect()).rejects.toThrow(/SSM in eu-central-1 does not know the instance i-0123456789abcdef0/);
  ssm.instance = { ...usual, PingStatus: 'ConnectionLost' };
  await expect(connect()).rejects.toThrow(/is ConnectionLost: it must be online/);
  ssm.instance = { ...usual, PlatformType: 'Windows' };
  await expect(connect()).rejects.toThrow(/runs Windows/);
  ssm.instance = { ...usual, IPAddress: undefined };
  await expect(connect()).rejects.toThrow(/SWITCHYARD_EC2_ADDRESS/);
  // The address proxy would refuse the whole table of its host for this one row.
  ssm.instance = { ...usual, IPAddress: '2001:db8::1' };
  await expect(connect()).rejects.toThrow(/no.* IPv4 address of i-.*SWITCHYARD_EC2_ADDRESS/);
  ssm.instance = usual;
  await expect(connect({ socketPath: path.join(folder, 'none.sock') })).rejects.toThrow(/There is no Docker engine at/);
  ssm.faults.push({ operation: 'DescribeInstanceInformation', error: 'AccessDeniedException' });
  await expect(connect()).rejects.toThrow(/cannot be asked about the instance .*: AccessDeniedException/);
});

test('settings that are given in part are one error that names the others', () => {
  const given = { SWITCHYARD_EC2_INSTANCE_ID: 'i-0123456789abcdef0', SWITCHYARD_EC2_REGION: region };
  expect(() => loadConfig(given)).toThrow(/SWITCHYARD_EC2_BUCKET: must be set with SWITCHYARD_EC2_INSTANCE_ID/);
  expect(() => loadConfig({ SWITCHYARD_EC2_ADDRESS: '10.0.0.1' })).toThrow(/SWITCHYARD_EC2_INSTANCE_ID: must be set/);
  const whole = { ...given, SWITCHYARD_EC2_BUCKET: 'transfer' };
  expect(() => loadConfig({ ...whole, SWITCHYARD_EC2_ADDRESS: 'not-an-address' })).toThrow(/an IPv4 address/);
  expect(() => loadConfig({ ...whole, SWITCHYARD_EC2_INSTANCE_ID: 'i-1; id' })).toThrow(/the id of an instance/);
  expect(loadConfig(whole).driver.ec2).toMatchObject({ instanceId: 'i-0123456789abcdef0', bucket: 'transfer', address: null }); // prettier-ignore
  expect(loadConfig({}).driver.ec2).toBeUndefined();
});

test('ports are given out one after the other, none twice in a short time', async () => {
  const ports = [await ec2.findPort(), await ec2.findPort(), await ec2.findPort()];
  expect(new Set(ports)).toEqual(new Set([17_000, 17_001, 17_002]));
  await expect(ec2.findPort()).rejects.toThrow(/were given out/);
});
