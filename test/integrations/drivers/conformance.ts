import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test, type TestContext } from 'vitest';
import type { Driver, Opaque, Started } from '../../../src/domains/deployments/service/driver.ts';
import { listenersOf } from '../../../src/integrations/process/ports.ts';
import { until } from '../../support/embedded.ts';
import { newRun } from '../../support/test-engine.ts';

/** A driver to try, with folders for what it builds. */
export interface Subject {
  readonly driver: Driver;
  /** What a server that starts after this one died has: the same host, and nothing in memory. */
  again(): Promise<Driver>;
  /** An empty folder of an application's user. */
  checkout(of: Maker): Promise<string>;
  /** What `HOST` must be, and so where an instance is to listen. */
  readonly listenOn: string;
  /** Whether the driver holds an instance in: memory, and that it sees nothing of others. */
  readonly confines: boolean;
  /** Everything that a person of the machine can list: processes, containers. */
  listing(): Promise<string>;
}

type Maker = ReturnType<typeof newRun> & { readonly userSlot: number };

const second = 1_000;
let slots = 0;

/** What every driver does; `subject` may skip a test. */
export function conformance(subject: (context: TestContext) => Promise<Subject>): void {
  const probe = (driver: Driver, of: Maker, started: Started, at = '/') =>
    driver.probe({
      ...of,
      instance: started.instance,
      port: started.port,
      path: at,
      timeoutMs: 2 * second,
      signal: AbortSignal.timeout(20 * second),
    });

  const build = async (
    on: Subject,
    files: Readonly<Record<string, string>>,
    more: Partial<Parameters<Driver['build']>[0]> & { readonly prepare?: (folder: string) => Promise<void> } = {},
    of: Maker = { ...newRun(), userSlot: slots++ },
  ) => {
    const source = await on.checkout(of);
    for (const [name, text] of Object.entries(files)) await writeFile(path.join(source, name), text, { mode: 0o644 });
    await more.prepare?.(source);
    const lines: string[] = [];
    const built = on.driver.build({
      ...of,
      source,
      buildCommand: null,
      startCommand: 'node server.js',
      environment: {},
      signal: AbortSignal.timeout(60 * second),
      timeoutMs: 60 * second,
      log: (line) => void lines.push(line),
      recordChild: () => Promise.resolve(),
      ...more,
    });
    built.catch(() => undefined); // told to those who await it
    return { of, source, lines, built };
  };

  /** Builds, starts and waits until it answers; ended after the test. */
  const serve = async (
    on: Subject,
    context: TestContext,
    source: string,
    more: Partial<Parameters<Driver['start']>[0]> = {},
    of: Maker = { ...newRun(), userSlot: slots++ },
  ) => {
    const { built } = await build(on, { 'server.js': source }, {}, of);
    const { artifact } = await built;
    const started = await on.driver.start({
      ...of,
      artifact,
      environment: {},
      limits: { memoryMb: null, milliCpus: null },
      ...more,
    });
    context.onTestFinished(() => on.driver.stop(started.instance, 0));
    return { of, artifact, started };
  };
  const healthy = (on: Subject, of: Maker, started: Started) =>
    until('it answers', async () => (await probe(on.driver, of, started)).ok, 15 * second);
  const ask = async (started: Started, at = '/') => (await fetch(`http://127.0.0.1:${started.port}${at}`)).text();

  test('builds what it finds, tells the output, starts it and hears its health', async (context) => {
    const on = await subject(context);
    const { built, lines, of } = await build(on, {
      'package.json': JSON.stringify({ scripts: { build: 'node build.js', start: 'node server.js' } }),
      'build.js': `require('node:fs').writeFileSync('made.txt', 'made'); console.log('out ' + 1); console.error('err ' + 2);`,
      'server.js': answer(`require('node:fs').readFileSync('made.txt')`),
    }, { startCommand: null }); // prettier-ignore
    const { artifact } = await built;
    expect(lines).toEqual(expect.arrayContaining(['out 1', 'err 2']));
    const limits = { memoryMb: null, milliCpus: null };
    const recorded: Opaque[] = [];
    const started = await on.driver.start({ ...of, artifact, environment: {}, limits, record: (one) => Promise.resolve(void recorded.push(one)) }); // prettier-ignore
    context.onTestFinished(() => on.driver.stop(started.instance, 0));
    expect(recorded).toEqual([started.instance]);
    await healthy(on, of, started);
    expect(await ask(started)).toBe('made');
    expect(await probe(on.driver, of, started, '/missing')).toMatchObject({ ok: false, status: 404 });
    expect(await on.driver.alive(started.instance)).toBe(true);
  });

  test('a build that fails says why, and leaves nothing', async (context) => {
    const on = await subject(context);
    const { built, lines, of } = await build(on, { 'server.js': '' }, { buildCommand: 'echo half way; exit 3' });
    await expect(built).rejects.toMatchObject({
      code: 'BUILD_FAILED',
      message: expect.stringContaining('3') as string,
    });
    expect(lines.join('\n')).toContain('half way');
    expect(await on.listing()).not.toContain(`:${of.runId}.`);
  });

  test('a build that is canceled ends within a second, with all that it started', async (context) => {
    const on = await subject(context);
    const cancel = new AbortController();
    const marker = `${7_000 + slots}.25`;
    const { built, lines } = await build(on, { 'server.js': '' }, {
      buildCommand: `echo begun; sleep ${marker} & sleep ${marker}`,
      signal: cancel.signal,
    }); // prettier-ignore
    await until('it runs', () => Promise.resolve(lines.includes('begun')), 20 * second);
    const from = performance.now();
    cancel.abort(new Error('canceled by a person'));
    await expect(built).rejects.toThrow('canceled by a person');
    expect(performance.now() - from).toBeLessThan(on.confines ? second : 2_500); // processes get a grace of two
    await until('nothing of it runs', async () => !(await on.listing()).includes(`sleep ${marker}`), 5 * second);
  });

  test('a build that takes too long is ended', async (context) => {
    const on = await subject(context);
    const { built } = await build(on, { 'server.js': '' }, { buildCommand: 'sleep 7777.5', timeoutMs: 3 * second });
    await expect(built).rejects.toMatchObject({ code: 'BUILD_FAILED', message: 'The build took too long.' });
    await until('nothing of it runs', async () => !(await on.listing()).includes('sleep 7777.5'), 5 * second);
  });

  test('huge output comes whole and in order, and does not fill the memory', async (context) => {
    const on = await subject(context);
    let [count, inOrder, longest] = [0, true, 0];
    const { built } = await build(on, { 'server.js': '', 'talk.js': `for (let i = 0; i < 50000; i++) console.log('line ' + i + ' ' + 'x'.repeat(i % 100)); process.stdout.write('y'.repeat(1e6));` }, {
      buildCommand: 'node talk.js',
      log: (line) => {
        longest = Math.max(longest, line.length);
        if (!line.startsWith('line ')) return;
        inOrder &&= line.startsWith(`line ${count} `) || line === `line ${count}`;
        count += 1;
      },
    }); // prettier-ignore
    await built;
    expect({ count, inOrder }).toEqual({ count: 50_000, inOrder: true });
    expect(longest).toBeLessThanOrEqual(8_000);
  });

  test('a hostile repository reaches nothing outside of it', async (context) => {
    const on = await subject(context);
    const outside = path.join(path.dirname(await on.checkout({ ...newRun(), userSlot: slots++ })), 'outside.txt');
    await writeFile(outside, 'canary of the host', { mode: 0o600 });
    const { built, lines } = await build(
      on,
      { 'server.js': '', "-rf $(touch x) '; echo `id`": 'x', 'ünïcode \u{1f600}': 'x'.repeat(600) },
      {
        buildCommand: 'cat link inside.txt folder/outside.txt /etc/shadow; ls; echo end of it',
        prepare: async (folder) => {
          await symlink(outside, path.join(folder, 'link'));
          await symlink(path.dirname(outside), path.join(folder, 'folder'));
          await symlink('server.js', path.join(folder, 'inside.txt'));
          let deep = folder;
          for (let depth = 0; depth < 12; depth += 1)
            await mkdir((deep = path.join(deep, `a-rather-long-name-${depth}`)));
          await writeFile(path.join(deep, 'deep.txt'), 'deep');
        },
      },
    );
    await built.catch(() => undefined); // whether cat's failure counts is the shell's affair
    expect(lines).toContain('end of it');
    expect(lines.join('\n')).not.toContain('canary of the host');
    expect(lines.filter((line) => /^root:[^ ]*:/.test(line))).toEqual([]);
    expect(await readFile(outside, 'utf8')).toBe('canary of the host');
  });

  test('the environment is exactly what was given, and is in no listing', async (context) => {
    const on = await subject(context);
    const environment = { TEXT: `a "b" 'c' $HOME \`id\` \\ ü\nnext line`, EMPTY: '', SECRET_KEY: 'geheim-wie-nie' };
    const { started, of } = await serve(on, context, answer(`JSON.stringify(process.env)`), { environment });
    await healthy(on, of, started);
    const seen = JSON.parse(await ask(started)) as Record<string, string>;
    expect(seen).toMatchObject({ ...environment, HOST: on.listenOn });
    expect(Object.keys(seen).filter((name) => name.startsWith('SWITCHYARD') || name.startsWith('DATABASE'))).toEqual(
      [],
    );
    expect(await on.listing()).not.toContain('geheim-wie-nie');
  });

  test('only loopback reaches it, at a port of the range', async (context) => {
    const on = await subject(context);
    const { started, of } = await serve(on, context, answer(`'here'`));
    await healthy(on, of, started);
    expect(started.port).toBeGreaterThanOrEqual(17_000);
    expect(started.port).toBeLessThan(17_100);
    const tables = (await Promise.all(['tcp', 'tcp6'].map((one) => readFile(`/proc/net/${one}`, 'utf8')))).join('\n');
    const wanted = `:${started.port.toString(16).toUpperCase()} `;
    const listening = tables.split('\n').filter((line) => line.includes(wanted) && line.includes(' 0A '));
    expect(listening.map((line) => line.trim().split(/\s+/)[1])).toEqual([`0100007F${wanted.trim()}`]);
    expect(await listenersOf(started.port)).toEqual(started.uid === null ? [process.getuid?.()] : [started.uid]);
    expect(Object.keys(networkInterfaces()).length).toBeGreaterThan(0);
  });

  test('what it writes is followed to the last word, and told from the end', async (context) => {
    const on = await subject(context);
    const { started, artifact } = await serve(
      on,
      context,
      `for (let i = 0; i < 3000; i++) console.log('line ' + i); setTimeout(() => { console.error('last words'); process.exit(4); }, 300);`,
    );
    const stop = new AbortController();
    const lines: string[] = [];
    const following = (async () => {
      for await (const line of on.driver.follow({ artifact, instance: started.instance }, started.logFrom, stop.signal))
        lines.push(line);
    })();
    await until('it has ended', async () => !(await on.driver.alive(started.instance)), 10 * second);
    stop.abort();
    await following;
    expect(lines).toEqual([...Array.from({ length: 3000 }, (_, i) => `line ${i}`), 'last words']);
    expect(await on.driver.tail({ artifact, instance: started.instance }, 2)).toEqual(['line 2999', 'last words']);
  });

  test('a memory hog is ended, and others are not', async (context) => {
    const on = await subject(context);
    const other = await serve(on, context, answer(`'other'`));
    const hog = await serve(
      on,
      context,
      `${answer(`'hog'`)} const kept = []; setTimeout(() => setInterval(() => { for (let i = 0; i < 40; i++) kept.push(new Array(1e5).fill(Math.random())); }, 5), 300);`,
      { limits: { memoryMb: 64, milliCpus: 500 } },
    );
    await until('it was ended', async () => !(await on.driver.alive(hog.started.instance)), 30 * second);
    const why = await on.driver.ending(hog.started.instance);
    expect(why).toBe(on.confines ? 'It took more than its 64 MiB of memory.' : null);
    await healthy(on, other.of, other.started);
    expect(await on.driver.alive(other.started.instance)).toBe(true);
  });

  test('tells what instances use: each figure, or why there is none', async (context) => {
    const on = await subject(context);
    const busy = await serve(
      on,
      context,
      `${answer(`'busy'`)} const held = Buffer.alloc(60_000_000, 1); while (process.cpuUsage().user < 500_000) held[0]++;`,
      { limits: { memoryMb: 200, milliCpus: 1000 } },
    );
    // It answers when its work is done.
    await healthy(on, busy.of, busy.started);
    const ended = await serve(on, context, answer(`'ended'`));
    await on.driver.stop(ended.started.instance, 0);
    const [usage, none] = await on.driver.usage([busy.started.instance, ended.started.instance]);
    expect(none).toBeNull();
    expect(usage?.cpuMs).toBeGreaterThan(450); // of 500 and its start
    expect(usage?.memoryBytes).toBeGreaterThan(60_000_000);
    const { memoryLimitBytes, diskReadBytes, diskWrittenBytes, networkReceivedBytes, networkSentBytes, missing } = usage ?? {}; // prettier-ignore
    expect(memoryLimitBytes).toBe(on.confines ? 200 * 2 ** 20 : null);
    // What is null has a reason, and what has one is null.
    const known = { CPU: true, MEMORY: true, MEMORY_LIMIT: memoryLimitBytes !== null, DISK: diskReadBytes !== null, NETWORK: networkSentBytes !== null }; // prettier-ignore
    expect(Object.keys(missing ?? {}).toSorted()).toEqual(Object.entries(known).flatMap(([figure, is]) => (is ? [] : [figure])).toSorted()); // prettier-ignore
    expect([diskWrittenBytes === null, networkReceivedBytes === null]).toEqual([!known.DISK, !known.NETWORK]);
    expect(known.NETWORK).toBe(on.confines);
  });

  test('tells what applications have on the disk, of what was built and of what instances have written', async (context) => {
    const on = await subject(context);
    const written = `const { writeFileSync } = require('node:fs'); const { randomBytes } = require('node:crypto');
      writeFileSync(require('node:path').join(require('node:os').tmpdir(), 'written'), randomBytes(${4 * 2 ** 20}));`;
    const of: Maker = { ...newRun(), userSlot: slots++ };
    const { built } = await build(
      on,
      { 'server.js': `${written}${answer(`'ok'`)}` },
      { prepare: (source) => writeFile(path.join(source, 'noise'), randomBytes(8 * 2 ** 20), { mode: 0o644 }) },
      of,
    );
    const { artifact } = await built;
    const limits = { memoryMb: null, milliCpus: null };
    const started = await on.driver.start({ ...of, artifact, environment: {}, limits });
    context.onTestFinished(() => on.driver.stop(started.instance, 0));
    await healthy(on, of, started);
    const { signal } = new AbortController();
    expect((await on.driver.sizes(signal)).get(of.applicationId)).toBeGreaterThanOrEqual(12 * 2 ** 20);
    // Of another machine it is not known.
    expect((await on.driver.free()) ?? 1).toBeGreaterThan(0);
    await expect(on.driver.sizes(AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
    await on.driver.stop(started.instance, 0);
    await on.driver.forget(of);
    expect((await on.driver.sizes(signal)).get(of.applicationId)).toBeUndefined();
  });

  test('stop ends everything that it started, with a grace for those who use it', async (context) => {
    const on = await subject(context);
    const polite = await serve(
      on,
      context,
      `${answer(`'polite'`)} const { spawn } = require('node:child_process'); spawn('sleep', ['8888.5'], { detached: true, stdio: 'ignore' }).unref();
       process.once('SIGTERM', () => setTimeout(() => { console.log('tidied up'); process.exit(0); }, 300));`,
    );
    await healthy(on, polite.of, polite.started);
    await until('its child runs', async () => (await on.listing()).includes('sleep 8888.5'), 5 * second);
    await on.driver.stop(polite.started.instance, 5 * second);
    expect(await on.driver.alive(polite.started.instance)).toBe(false);
    // Processes that left their group are found by their user when the application goes.
    await on.driver.forget(polite.of);
    expect(await on.listing()).not.toContain('sleep 8888.5');
    const deaf = await serve(on, context, `${answer(`'deaf'`)} process.on('SIGTERM', () => {});`);
    await healthy(on, deaf.of, deaf.started);
    const from = performance.now();
    await on.driver.stop(deaf.started.instance, second);
    expect(performance.now() - from).toBeLessThan(6 * second);
    expect(await on.driver.alive(deaf.started.instance)).toBe(false);
    await on.driver.stop(deaf.started.instance, second); // fine when it is gone
    await expect(ask(deaf.started)).rejects.toThrow(/fetch failed/);
  });

  test('a server that starts after its starter died finds, hears and ends it', async (context) => {
    const on = await subject(context);
    const { started, of, artifact } = await serve(on, context, answer(`'still here'; console.log('asked')`));
    await healthy(on, of, started);
    const next = await on.again();
    expect(await next.alive(started.instance)).toBe(true);
    expect(await probe(next, of, started)).toMatchObject({ ok: true });
    expect((await next.tail({ artifact, instance: started.instance }, 5)).at(-1)).toBe('asked');
    const { artifacts, instances } = await next.list();
    expect(artifacts.map(({ runId }) => runId)).toContain(of.runId);
    const listed = instances
      .filter(({ runId }) => runId === of.runId)
      .map(({ instance, attempt }) => ({ instance, attempt }));
    expect(listed).toEqual(on.confines ? [{ instance: started.instance, attempt: 1 }] : []);
    await next.stop(started.instance, 0);
    expect(await next.alive(started.instance)).toBe(false);
  });

  test('a removed artifact is gone, and so is all of a forgotten application', async (context) => {
    const on = await subject(context);
    const { started, of, artifact } = await serve(on, context, answer(`'x'`));
    await on.driver.stop(started.instance, 0);
    const again = await on.driver.start({ ...of, artifact, environment: {}, limits: { memoryMb: null, milliCpus: null } }); // prettier-ignore
    await healthy(on, of, again);
    await on.driver.stop(again.instance, 0);
    const runs = async () => (await on.driver.list()).artifacts.map(({ runId }) => runId);
    await on.driver.remove(artifact);
    await on.driver.remove(artifact);
    expect(await runs()).not.toContain(of.runId);
    const other = await serve(on, context, answer(`'x'`));
    await on.driver.stop(other.started.instance, 0);
    await on.driver.forget(other.of);
    await on.driver.forget(other.of);
    expect(await runs()).not.toContain(other.of.runId);
  });

  test('two applications cannot see each other', async (context) => {
    const on = await subject(context);
    const victim = await serve(on, context, `${answer(`'victim'`)} // of-the-victim`, {
      environment: { TOKEN: 'of-the-victim' },
    });
    await healthy(on, victim.of, victim.started);
    const spy = await serve(
      on,
      context,
      answer(`(() => { const fs = require('node:fs'); const found = [];
        for (const pid of fs.readdirSync('/proc').filter(Number)) for (const file of ['environ', 'cwd/server.js']) {
          try { if (new RegExp(['of', 'the', 'victim'].join('-')).test(fs.readFileSync('/proc/' + pid + '/' + file))) found.push(pid + file); } catch {}
        }
        return JSON.stringify(found); })()`),
    );
    await healthy(on, spy.of, spy.started);
    expect(JSON.parse(await ask(spy.started))).toEqual([]);
    for (const target of await privateAddresses(victim.started.instance, on)) {
      // Asked by the other application itself, never from here.
      const reach = await serve(on, context, reaching(target));
      await healthy(on, reach.of, reach.started);
      expect(await ask(reach.started)).toMatch(/^failed/);
    }
  });

  test('the port of another is no health of its own', async (context) => {
    const on = await subject(context);
    const { started, of } = await serve(on, context, `setInterval(() => {}, 1000)`);
    const stranger = createServer((_, response) => response.end('stranger')).listen(0, '127.0.0.1');
    await once(stranger, 'listening');
    context.onTestFinished(() => void stranger.close());
    const { port } = stranger.address() as { port: number };
    expect((await probe(on.driver, of, { ...started, port })).ok).toBe(!asRootOrConfined(on));
  });

  const asRootOrConfined = (on: Subject): boolean => on.confines || process.getuid?.() === 0;

  async function privateAddresses(instance: Opaque, on: Subject): Promise<string[]> {
    const found = on.confines ? /"container:([^"]+)"/.exec(`"container:${String(instance['container'])}"`) : null;
    return found ? [await addressOf(on, found[1] ?? '')] : [];
  }
}

/** Tells the private address of a container; set by the tests of the Docker driver. */
export const addresses: { of: (container: string) => Promise<string> } = { of: () => Promise.resolve('') };
const addressOf = async (_: Subject, container: string): Promise<string> => addresses.of(container);

/** A server that answers `/` with the value of an expression, and nothing else. */
export const answer = (expression: string): string => `
require('node:http').createServer((request, response) => {
  if (request.url !== '/') return response.writeHead(404).end();
  const value = (() => { try { return eval(${JSON.stringify(expression)}); } catch (error) { return String(error); } })();
  response.end(value === undefined ? '' : Buffer.isBuffer(value) ? value : String(value));
}).listen(Number(process.env.PORT), process.env.HOST);
`;

const reaching = (target: string): string => `
require('node:http').createServer((request, response) => {
  const sent = require('node:http').get({ host: ${JSON.stringify(target)}, port: 8080, timeout: 1500 }, () => response.end('reached'));
  sent.once('timeout', () => sent.destroy(new Error('timeout')));
  sent.once('error', (error) => response.end('failed: ' + error.message));
}).listen(Number(process.env.PORT), process.env.HOST);
`;

/** Command lines of all processes of this machine. */
export async function processListing(): Promise<string> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map(async (pid) => (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ')),
  );
  return lines.join('\n');
}

export const run = promisify(execFile);
