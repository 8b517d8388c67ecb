// @ts-check
// Owns one PostgreSQL server for as long as somebody holds a lease on it: an open connection to this program's Unix
// socket. A lease therefore ends with its process, however that ends. Started by index.ts, detached.
//
// Protocol, one JSON object a line, from here only: {"ready": {pid, port, supervisorPid}}, {"failed": "why"} or
// {"lost": "why"}. A holder says "lease\n", and ends the lease by closing its side; the connection of the last one
// stays open until the server has stopped.
//
// Plain JavaScript, because stripping the types would cost this long-lived process 17 MB and its start 60 ms.
import { execFile, spawn } from 'node:child_process';
import { close, open } from 'node:fs';
import { readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

/**
 * @typedef {object} Config
 * @property {string} socket path of the Unix socket
 * @property {string} lock held from before the server's start until after its end
 * @property {string} dataDir
 * @property {string} postgres the server's executable
 * @property {Record<string, string | number>} settings passed on the server's command line
 * @property {{uid?: number, gid?: number}} user who runs the server, if not this user
 * @property {string} portFile remembers the port
 * @property {string} logFile what the server writes
 * @property {Record<string, string>} env the server's environment
 */

/** @type {Config} */
const config = JSON.parse(process.argv[2] ?? '{}');
const startLimitMs = 60_000;
/** A lease must come within this time, since who started us may have died. */
const firstLeaseLimitMs = 3_000;
const logLimitBytes = 10_000_000;

/** @type {Set<net.Socket>} */
const leases = new Set();
/** @type {'starting' | 'ready' | 'stopping'} */
let state = 'starting';
/** @type {{ postgres?: import('node:child_process').ChildProcess }} */
const running = {};
let leasedBefore = false;
let readyLine = '';

// A function, since the state changes behind the back of a loop.
const isStopping = () => state === 'stopping';

await takeLock();
const watchdog = startWatchdog();
const server = await listen();
for (const signal of /** @type {const} */ (['SIGTERM', 'SIGINT', 'SIGHUP'])) {
  process.on(signal, () => void finish({ lost: `its supervisor got ${signal}` }, 0));
}
try {
  await endLeftover();
  const port = await startPostgres();
  if (port) {
    readyLine = line({ ready: { pid: running.postgres?.pid, port, supervisorPid: process.pid } });
    state = 'ready';
    for (const lease of leases) lease.write(readyLine);
    setTimeout(() => stopIfUnused(true), firstLeaseLimitMs).unref();
    stopIfUnused(false);
  }
} catch (error) {
  const failed = error instanceof Error ? error.message : String(error);
  console.error(failed); // into the log, for a starter that was not connected yet
  await finish({ failed }, 1);
}

/** @param {unknown} error */
function codeOf(error) {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/** @param {object} message */
function line(message) {
  return `${JSON.stringify(message)}\n`;
}

/** Waits for a predecessor that is stopping; ends this process when another one serves. */
async function takeLock() {
  const deadline = Date.now() + startLimitMs;
  const database = new DatabaseSync(config.lock, { timeout: 0 });
  for (;;) {
    try {
      database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
      process.once('exit', () => database.close());
      return;
    } catch (error) {
      if (!(error instanceof Error && 'errcode' in error && error.errcode === 5)) throw error;
    }
    if (await somebodyServes()) process.exit(0);
    if (Date.now() > deadline) throw new Error(`another process has held ${config.lock} for too long`);
    await delay(10);
  }
}

/** @returns {Promise<boolean>} */
function somebodyServes() {
  return new Promise((resolve) => {
    const probe = net.connect(config.socket);
    probe.once('connect', () => resolve(true));
    // Any failure means no; the lock decides what follows.
    probe.once('error', () => resolve(false));
    probe.once('connect', () => probe.destroy());
  });
}

/** @returns {Promise<net.Server>} */
async function listen() {
  await rm(config.socket, { force: true });
  const server = net.createServer({ allowHalfOpen: true }, welcome);
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(config.socket, () => resolve(undefined));
  });
  return server;
}

/** @param {net.Socket} socket */
function welcome(socket) {
  socket.on('error', () => socket.destroy());
  if (state === 'stopping') {
    socket.destroy();
    return;
  }
  socket.once('data', () => {
    leases.add(socket);
    leasedBefore = true;
    if (readyLine) socket.write(readyLine);
  });
  const end = () => {
    leases.delete(socket);
    stopIfUnused(false);
    if (state !== 'stopping') socket.end();
  };
  socket.once('end', end);
  socket.once('close', end);
}

/** @param {boolean} waitedForFirst */
function stopIfUnused(waitedForFirst) {
  if (state === 'ready' && leases.size === 0 && (leasedBefore || waitedForFirst)) {
    void finish({ lost: 'nobody held it' }, 0);
  }
}

/**
 * Ends the server, tells all holders, and ends this process.
 * @param {{failed: string} | {lost: string}} message
 * @param {number} code
 */
async function finish(message, code) {
  if (state === 'stopping') return;
  state = 'stopping';
  server.close();
  await endPostgres();
  watchdog.stdin?.end('0\n');
  const told = [...leases].map((lease) => new Promise((resolve) => lease.end(line(message), () => resolve(undefined))));
  // A holder that does not read must not keep us.
  await Promise.race([Promise.all(told), delay(1_000)]);
  process.exit(code);
}

/** A fast shutdown: sessions are cut, their transactions rolled back, the data written out. */
async function endPostgres() {
  const { postgres } = running;
  if (!postgres?.pid || postgres.exitCode !== null || postgres.signalCode !== null) return;
  const ended = new Promise((resolve) => postgres.once('exit', resolve));
  postgres.kill('SIGINT');
  const impatient = setTimeout(() => postgres.kill('SIGQUIT'), 30_000);
  const merciless = setTimeout(() => postgres.kill('SIGKILL'), 40_000);
  await ended;
  clearTimeout(impatient);
  clearTimeout(merciless);
}

/** Ends the server should this process be killed: then its standard input closes. */
function startWatchdog() {
  const script = 'while read -r pid; do last=$pid; done; [ "${last:-0}" -gt 0 ] && kill -INT "$last"';
  const child = spawn('/bin/sh', ['-c', script, 'switchyard-watchdog', config.dataDir], {
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
    env: config.env,
    detached: true,
  });
  child.on('error', (error) => console.error(`no watchdog: ${error.message}`));
  child.stdin.on('error', (error) => console.error(`lost the watchdog: ${error.message}`));
  return child;
}

/**
 * The process that postmaster.pid names, where it is really a server on our data folder: after a crash the number may
 * belong to anybody.
 * @see https://www.postgresql.org/docs/18/storage-file-layout.html
 */
async function readPidFile() {
  let text;
  try {
    text = await readFile(`${config.dataDir}/postmaster.pid`, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  const lines = text.split('\n');
  return { pid: Math.abs(Number(lines[0])), status: lines[7]?.trim() ?? '' };
}

/** @param {number} pid */
async function isOurPostgres(pid) {
  if (!pid) return false;
  try {
    const command =
      process.platform === 'linux'
        ? (await readFile(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ')
        : (await promisify(execFile)('/bin/ps', ['-o', 'command=', '-p', String(pid)])).stdout;
    return command.includes(`/postgres -D ${config.dataDir} `);
  } catch {
    return false; // no such process
  }
}

/** Stops a server whose supervisor was killed, and forgets one that is gone. We hold the lock, so none is in use. */
async function endLeftover() {
  const found = await readPidFile();
  if (!found) return;
  const deadline = Date.now() + startLimitMs / 2;
  while (await isOurPostgres(found.pid)) {
    if (state === 'stopping') return;
    try {
      process.kill(found.pid, Date.now() < deadline ? 'SIGINT' : 'SIGKILL');
    } catch (error) {
      if (codeOf(error) !== 'ESRCH') throw error;
    }
    await delay(20);
  }
  await rm(`${config.dataDir}/postmaster.pid`, { force: true });
}

/** @returns {Promise<number>} the port; 0 when this process was told to stop meanwhile */
async function startPostgres() {
  const deadline = Date.now() + startLimitMs;
  for (let first = true; ; first = false) {
    const port = await choosePort(first);
    const outcome = await tryStart(port);
    if (state === 'stopping') return 0;
    if (outcome === undefined) {
      await writeFile(config.portFile, String(port));
      return port;
    }
    // Somebody took the port just now; or the last server was killed and one of its sessions is still busy.
    const passing = /could not bind|in use/i.test(outcome);
    if (!passing || Date.now() > deadline) throw new Error(`PostgreSQL did not start: ${outcome}`);
    await delay(50);
  }
}

/**
 * @param {number} port
 * @returns {Promise<string | undefined>} why it did not start
 */
async function tryStart(port) {
  const [log, logged] = await openLog();
  if (state === 'stopping') return 'it is to stop';
  const settings = Object.entries({ ...config.settings, port }).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const child = spawn(config.postgres, ['-D', config.dataDir, ...settings], {
    ...config.user,
    cwd: '/',
    env: config.env,
    detached: true,
    stdio: ['ignore', log, log],
  });
  running.postgres = child;
  if (child.pid) watchdog.stdin?.write(`${child.pid}\n`);
  close(log);
  /** @type {string | undefined} */
  let ended;
  child.once('error', (error) => (ended = error.message));
  child.once('exit', (code, signal) => {
    ended = `it ended with ${signal ?? `status ${code}`}`;
    watchdog.stdin?.write('0\n');
    if (state === 'ready') void finish({ lost: ended }, 1);
  });
  for (;;) {
    if (ended !== undefined || isStopping()) break;
    const found = await readPidFile();
    if (found?.pid === child.pid && found?.status === 'ready') return undefined;
    await delay(5);
  }
  const said = (await readFile(config.logFile)).subarray(logged).toString().trim();
  return `${ended}; ${said.split('\n').slice(-3).join(' | ')}`;
}

/** @returns {Promise<[fd: number, size: number]>} */
async function openLog() {
  let size = 0;
  try {
    ({ size } = await stat(config.logFile));
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
  if (size > logLimitBytes) {
    await rename(config.logFile, `${config.logFile}.old`);
    size = 0;
  }
  return [await promisify(open)(config.logFile, 'a', 0o600), size];
}

/**
 * The port of last time if it is free, else a random one below 32768, where the operating system does not pick the
 * ports of outgoing connections; else any.
 * @param {boolean} wantLast
 */
async function choosePort(wantLast) {
  const candidates = Array.from({ length: 20 }, () => 20_000 + Math.floor(Math.random() * 12_768));
  if (wantLast) candidates.unshift(Number(await readFile(config.portFile, 'utf8').catch(() => '')) || 0);
  for (const port of candidates) {
    if (port && (await freePort(port))) return port;
  }
  const any = await freePort(0);
  if (!any) throw new Error('there is no free port on 127.0.0.1');
  return any;
}

/**
 * @param {number} wanted 0: any
 * @returns {Promise<number>} 0: not free
 */
function freePort(wanted) {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', () => resolve(0));
    probe.listen(wanted, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
