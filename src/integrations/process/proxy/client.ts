import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { compileCacheDir } from '#kernel/compile-cache.ts';
import type { Logger } from '#kernel/log.ts';
import { endProcess, isAlive } from '#kernel/processes/children.ts';
import {
  askProxy,
  proxyFiles,
  proxyRecord,
  proxyVersion,
  readIfThere,
  readJson,
  writePrivately,
  type ProxyStatus,
} from './protocol.ts';

export type { ProxyStatus } from './protocol.ts';

export interface ProxyOptions {
  /** The host's folder, absolute. */
  readonly hostDir: string;
  readonly hostId: string;
  /** Direct, not pooled: the proxy listens on it. */
  readonly databaseUrl: string;
  /** The `node` that the proxy runs with. */
  readonly nodeBinary: string;
  /** Environment of the proxy, for instance for the certificates of the database; default: empty. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly log: Logger;
}

export interface ProxyHandle {
  /** It was running before. */
  readonly adopted: boolean;
  /**
   * Makes the proxy read the routes now and tells what is in force. A switch is done when the row's `version` is at
   * least that of the switch, and the old instance may be stopped when nothing is in flight to its port.
   * @throws Error when no proxy answers
   */
  sync(): Promise<ProxyStatus>;
  /** The same without reading. */
  status(): Promise<ProxyStatus>;
  /** Ends the proxy; requests in flight get five seconds. */
  stop(): Promise<void>;
}

const startTimeoutMs = 15_000;
const answerTimeoutMs = 8_000;

/** Tells the host's proxy where the database is now. It follows within a second. */
export async function writeDatabaseUrl(hostDir: string, databaseUrl: string): Promise<void> {
  const files = proxyFiles(hostDir);
  const text = `${databaseUrl}\n`;
  if ((await readIfThere(files.databaseUrl)) === text) return;
  await mkdir(files.dir, { recursive: true, mode: 0o700 });
  await writePrivately(files.databaseUrl, text);
}

/**
 * The host's address proxy, started if none lives. One of another program version is replaced when nothing is in
 * flight through it; else it stays, and the next call tries again.
 * @throws Error when it does not answer within 15 s
 */
export async function ensureProxy(options: ProxyOptions): Promise<ProxyHandle> {
  const { hostDir, hostId, log } = options;
  await writeDatabaseUrl(hostDir, options.databaseUrl);
  const adopted = await adopt(options);
  if (!adopted) await start(options);
  return {
    adopted,
    sync: () => ask('sync'),
    status: () => ask('status'),
    async stop() {
      const record = await readJson(proxyFiles(hostDir).record, proxyRecord);
      if (!record || !(await isAlive(record))) return;
      await askProxy(hostDir, 'stop', answerTimeoutMs).catch((error: unknown) => {
        log.warn({ err: error }, 'The address proxy does not hear');
      });
      const deadline = performance.now() + 7_000;
      while ((await isAlive(record)) && performance.now() < deadline) await delay(10);
      await endProcess(record, { graceMs: 1_000 });
    },
  };

  async function ask(command: 'sync' | 'status'): Promise<ProxyStatus> {
    const status = await askProxy(hostDir, command, answerTimeoutMs);
    if (status?.hostId !== hostId) throw new Error('The address proxy of this host does not run.');
    return status;
  }
}

async function adopt({ hostDir, hostId, log }: ProxyOptions): Promise<boolean> {
  const record = await readJson(proxyFiles(hostDir).record, proxyRecord);
  if (!record || !(await isAlive(record))) return false;
  let status: ProxyStatus | null = null;
  try {
    status = await askProxy(hostDir, 'status', answerTimeoutMs);
  } catch (error) {
    log.warn({ err: error }, 'The address proxy is not understood');
  }
  if (!status) {
    log.warn({ pid: record.pid }, 'The address proxy does not answer and is replaced');
    await endProcess(record, { graceMs: 1_000 });
    return false;
  }
  if (status.hostId !== hostId) return false;
  if (record.version === proxyVersion) return true;
  const busy = status.inFlight.reduce((sum, one) => sum + one.count, 0);
  log.info(
    { running: record.version, wanted: proxyVersion, inFlight: busy },
    'The address proxy is of another version',
  );
  return busy > 0;
}

/** The new one ends an older one itself, when it is ready, so that the addresses are away for a moment only. */
async function start({ hostDir, hostId, nodeBinary, environment, log }: ProxyOptions): Promise<void> {
  const files = proxyFiles(hostDir);
  await writePrivately(files.config, JSON.stringify({ hostDir, hostId, logLevel: log.level }));
  const program = fileURLToPath(new URL('./main.ts', import.meta.url));
  await using output = await open(files.log, 'a', 0o600);
  const child = spawn(nodeBinary, [program, files.config], {
    cwd: files.dir,
    env: { ...environment, NODE_COMPILE_CACHE: compileCacheDir },
    detached: true,
    stdio: ['ignore', output.fd, output.fd],
  });
  await once(child, 'spawn');
  child.unref();
  const deadline = performance.now() + startTimeoutMs;
  while (performance.now() < deadline) {
    const record = await readJson(files.record, proxyRecord);
    // Another process of this host may start one at the same time: the later one ends the earlier one and serves.
    if (record && record.version === proxyVersion && record.hostId === hostId && (await isAlive(record))) {
      const status = await askProxy(hostDir, 'status', answerTimeoutMs);
      if (status?.pid === record.pid) {
        log.info({ pid: record.pid, ours: record.pid === child.pid }, 'Address proxy started');
        return;
      }
    } else if (child.exitCode !== null || child.signalCode !== null) {
      throw new Error(`The address proxy ended with ${child.exitCode ?? child.signalCode}; see ${files.log}.`);
    }
    await delay(10);
  }
  await endGroup(child.pid);
  throw new Error(`The address proxy did not answer within ${startTimeoutMs} ms; see ${files.log}.`);

  async function endGroup(pid: number | undefined): Promise<void> {
    if (pid !== undefined && child.kill('SIGKILL')) await once(child, 'exit');
  }
}
