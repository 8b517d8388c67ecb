import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, lstat, mkdir, open, readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { errorCode } from '../state-dirs.ts';
import { childEnvironment, type Cluster } from './cluster.ts';

const supervisorProgram = fileURLToPath(new URL('supervisor.mjs', import.meta.url));
/** Generous, since a server that was killed first replays its log. */
const startLimitMs = 180_000;

/** The most that a Unix socket's address holds everywhere: 104 bytes on macOS, 108 on Linux, one of them a zero. */
const socketPathLimit = 103;

/** The embedded server did not start; the message has its last words. */
export class EmbeddedPostgresFailed extends Error {}

/** The embedded server ended although it was in use: acquire it again, or stop. */
export class EmbeddedPostgresLost extends Error {
  constructor(reason: string) {
    super(`The embedded PostgreSQL is gone: ${reason}.`);
  }
}

/** One holder's share in a running server. */
export interface Lease {
  readonly pid: number;
  readonly port: number;
  readonly supervisorPid: number;
  /** Somebody else had started the server. */
  readonly adopted: boolean;
  /** Resolves, never rejects, when the server ended before the lease did. */
  readonly lost: Promise<EmbeddedPostgresLost>;
  /** Ends the lease. The last one's end waits for the server's. */
  release(): Promise<void>;
}

/**
 * Takes a lease on the server of the cluster whose home is `home`, starting it if nobody runs it, waiting for it if it
 * just stops.
 * @param home the cluster's folder below the state folder
 * @param prepare makes the cluster; called only if there is no server
 * @param settings of PostgreSQL, if it is started
 * @throws {EmbeddedPostgresFailed}
 */
export async function takeLease(
  home: string,
  prepare: () => Promise<Cluster>,
  settings: Readonly<Record<string, string>> = {},
): Promise<Lease> {
  const socketPath = await socketOf(home);
  const deadline = Date.now() + startLimitMs;
  let starter: ChildProcess | undefined;
  let cluster: Cluster | undefined;
  while (Date.now() < deadline) {
    const socket = await tryConnect(socketPath);
    const lease = socket && (await askForLease(socket, starter));
    if (lease) return lease;
    if (starter && (starter.signalCode ?? starter.exitCode ?? 0) !== 0) {
      throw new EmbeddedPostgresFailed(`The supervisor of the database server failed: ${await lastWords(home)}`);
    }
    if (!starter || starter.exitCode !== null) {
      cluster ??= await prepare();
      starter = await startSupervisor(cluster, socketPath, settings);
    }
    await delay(10);
  }
  throw new EmbeddedPostgresFailed(`The database server did not start in ${startLimitMs / 1000} s; see ${home}.`);
}

/** In `home`, or if that path is too long for a socket, in a folder of this user's in /tmp. */
async function socketOf(home: string): Promise<string> {
  const inHome = path.join(home, 'supervisor.sock');
  if (Buffer.byteLength(inHome) <= socketPathLimit) return inHome;
  const uid = process.getuid?.() ?? 0;
  const folder = `/tmp/switchyard-${uid}`;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const info = await lstat(folder);
  if (!info.isDirectory() || info.uid !== uid) {
    throw new EmbeddedPostgresFailed(`${folder}, for the database server's socket, belongs to somebody else.`);
  }
  await chmod(folder, 0o700);
  return path.join(folder, `${createHash('sha256').update(home).digest('hex').slice(0, 16)}.sock`);
}

function tryConnect(socketPath: string): Promise<Socket | undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error) => {
      // No socket, or a killed supervisor's, or one that stops at this moment, or too many who ask at once.
      if (['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'EAGAIN'].includes(errorCode(error) ?? ''))
        resolve(undefined);
      else reject(error);
    });
  });
}

/** What a supervisor says; see supervisor.mjs. */
type Message = { ready: { pid: number; port: number; supervisorPid: number } } | { failed: string } | { lost: string };

/** Calls back with each message, a line of JSON. */
function onMessage(socket: Socket, take: (message: Message) => void): void {
  let rest = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) take(JSON.parse(line));
  });
}

/** @returns undefined when the supervisor hung up without a word, since it stops */
function askForLease(socket: Socket, starter: ChildProcess | undefined): Promise<Lease | undefined> {
  const asked = Promise.withResolvers<Lease | undefined>();
  const closed = Promise.withResolvers<void>();
  const lost = Promise.withResolvers<EmbeddedPostgresLost>();
  let reason = 'its supervisor was killed';
  let released = false;
  // Nothing follows from a broken connection but its end.
  socket.on('error', () => socket.destroy());
  socket.setTimeout(startLimitMs, () => socket.destroy());
  socket.once('close', () => {
    asked.resolve(undefined);
    closed.resolve();
    if (!released) lost.resolve(new EmbeddedPostgresLost(reason));
  });
  onMessage(socket, (message) => {
    if ('failed' in message) asked.reject(new EmbeddedPostgresFailed(message.failed));
    else if ('lost' in message) reason = message.lost;
    else {
      // A lease alone is no reason to go on running.
      socket.unref();
      socket.setTimeout(0);
      asked.resolve({
        ...message.ready,
        adopted: message.ready.supervisorPid !== starter?.pid,
        lost: lost.promise,
        release: () => {
          released = true;
          socket.ref();
          socket.end();
          return closed.promise;
        },
      });
    }
  });
  socket.write('lease\n');
  return asked.promise;
}

async function startSupervisor(
  { home, dataDir, binaries, user }: Cluster,
  socket: string,
  settings: Readonly<Record<string, string>>,
): Promise<ChildProcess> {
  const config = {
    socket,
    lock: path.join(home, 'supervisor.lock'),
    dataDir,
    postgres: path.join(binaries, 'bin', 'postgres'),
    user: user ? { uid: user.uid, gid: user.gid } : {},
    portFile: path.join(home, 'port'),
    logFile: path.join(home, 'postgres.log'),
    env: childEnvironment,
    settings: {
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      max_connections: 200,
      shared_buffers: '128MB',
      // The default on Linux is /dev/shm, of which a container has 64 MB.
      ...(process.platform === 'linux' && { dynamic_shared_memory_type: 'mmap' }),
      io_method: 'sync',
      jit: 'off',
      log_min_messages: 'warning',
      ...settings,
    },
  };
  const { O_CREAT, O_WRONLY, O_TRUNC, O_APPEND } = constants;
  const log = await open(supervisorLog(home), O_CREAT | O_WRONLY | O_TRUNC | O_APPEND, 0o600);
  try {
    const child = spawn(process.execPath, [supervisorProgram, JSON.stringify(config)], {
      cwd: '/',
      env: childEnvironment,
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    child.unref();
    return child;
  } finally {
    await log.close();
  }
}

const supervisorLog = (home: string): string => path.join(home, 'supervisor.log');

async function lastWords(home: string): Promise<string> {
  return (
    (await readFile(supervisorLog(home), 'utf8')).trim().slice(-2_000) || `it said nothing in ${supervisorLog(home)}`
  );
}
