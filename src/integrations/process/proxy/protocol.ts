import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import { codeOf } from '#kernel/system-error.ts';

/**
 * What the proxy's program, control and files are now. Raise it with every change that a running proxy should be
 * replaced for.
 */
export const proxyVersion = 3;

/** The proxy's part of a host's folder; nobody but the server's user may enter it. */
export interface ProxyFiles {
  readonly dir: string;
  /** `ProxyConfig`. */
  readonly config: string;
  /** The URL of the database, alone. */
  readonly databaseUrl: string;
  /** Last known routes. */
  readonly routes: string;
  /** `ProxyRecord` of the proxy that serves. */
  readonly record: string;
  readonly log: string;
}

export function proxyFiles(hostDir: string): ProxyFiles {
  const dir = join(hostDir, 'proxy');
  const file = (name: string): string => join(dir, name);
  return {
    dir,
    config: file('config.json'),
    databaseUrl: file('database-url'),
    routes: file('routes.json'),
    record: file('proxy.json'),
    log: file('proxy.log'),
  };
}

export const proxyConfig = z.object({ hostDir: z.string().min(1), hostId: z.uuid(), logLevel: z.string() });
export type ProxyConfig = z.infer<typeof proxyConfig>;

export const proxyRecord = z.object({
  pid: z.int().positive(),
  startTime: z.string(),
  version: z.int(),
  hostId: z.string(),
});
export type ProxyRecord = z.infer<typeof proxyRecord>;

export const routeRow = z.object({
  port: z.int().min(1).max(65_535),
  applicationId: z.string(),
  /** IPv4 address; null: 127.0.0.1. A proxy of the version before does not tell it. */
  upstreamHost: z.ipv4().nullable().default(null),
  upstreamPort: z.int().min(1).max(65_535).nullable(),
  upstreamUid: z.int().min(0).nullable(),
  version: z.int(),
});
export const routesFile = z.object({ hostId: z.string(), routes: z.array(routeRow) });

/**
 * What a running proxy says of itself. `rows` are the routes in force; a row with `problem` cannot be reached.
 * `databaseError` is null when the routes were read for this very answer.
 */
export const proxyStatus = z.object({
  version: z.int(),
  pid: z.int(),
  hostId: z.string(),
  rows: z.array(routeRow.extend({ problem: z.string().nullable() })),
  inFlight: z.array(
    z.object({
      applicationId: z.string(),
      upstreamHost: z.string().nullable().default(null),
      upstreamPort: z.int(),
      count: z.int(),
    }),
  ),
  databaseError: z.string().nullable(),
});
export type ProxyStatus = z.infer<typeof proxyStatus>;

/** `status` answers from memory, `sync` reads the rows first, `stop` answers and then ends the proxy. */
export const proxyCommand = z.object({ command: z.enum(['status', 'sync', 'stop']) });
export type ProxyCommand = z.infer<typeof proxyCommand>['command'];

/** A file that only the server's user can read, whole or not at all. */
export async function writePrivately(file: string, text: string): Promise<void> {
  const fresh = `${file}.${randomUUID()}`;
  await writeFile(fresh, text, { mode: 0o600, flag: 'wx' });
  await rename(fresh, file);
}

/** The file's content when it is there and of this shape, else null. */
export async function readJson<T>(file: string, shape: z.ZodType<T>): Promise<T | null> {
  const text = await readIfThere(file);
  if (text === null) return null;
  try {
    return shape.parse(JSON.parse(text));
  } catch {
    return null; // of another version, or edited by hand: as good as none
  }
}

export async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** Socket paths are at most 107 bytes on Linux and 103 on macOS. @see https://man7.org/linux/man-pages/man7/unix.7.html */
const maxSocketPath = 103;
const socketName = 'control.sock';

/**
 * A path for the control socket that the system takes however deep the folder lies: through an open folder where it
 * would be too long. `release` closes that folder; a server needs it until it has ended.
 */
async function socketPath(dir: string): Promise<{ path: string; release: () => Promise<void> }> {
  const path = join(dir, socketName);
  if (Buffer.byteLength(path) <= maxSocketPath) return { path, release: () => Promise.resolve() };
  if (process.platform !== 'linux') throw new Error(`${dir} is too long for a socket: choose a shorter host folder.`);
  const folder = await open(dir, 'r');
  return { path: `/proc/self/fd/${folder.fd}/${socketName}`, release: () => folder.close() };
}

/** Listens on the host's control socket, which must have no living owner. */
export async function listenOnControl(hostDir: string, server: Server): Promise<void> {
  const { dir } = proxyFiles(hostDir);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await rm(join(dir, socketName), { force: true });
  const { path, release } = await socketPath(dir);
  server.once('close', () => void release());
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/**
 * Asks the proxy of a host. Null: none answers.
 * @throws Error when it does not answer within `timeoutMs`, or not in this language
 */
export async function askProxy(hostDir: string, command: ProxyCommand, timeoutMs: number): Promise<ProxyStatus | null> {
  let socket: { path: string; release: () => Promise<void> };
  try {
    socket = await socketPath(proxyFiles(hostDir).dir);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    const text = await exchange(socket.path, `${JSON.stringify({ command })}\n`, timeoutMs);
    return text === null ? null : proxyStatus.parse(JSON.parse(text));
  } finally {
    await socket.release();
  }
}

function exchange(path: string, text: string, timeoutMs: number): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let answer = '';
    const late = setTimeout(
      () => socket.destroy(new Error(`The address proxy did not answer in ${timeoutMs} ms.`)),
      timeoutMs,
    );
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      answer += chunk;
    });
    socket.once('connect', () => socket.write(text));
    socket.once('end', () => socket.end());
    socket.once('error', (error) => {
      clearTimeout(late);
      if (['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(String(codeOf(error)))) resolve(null);
      else reject(error);
    });
    socket.once('close', () => {
      clearTimeout(late);
      resolve(answer.endsWith('\n') ? answer : null); // an answer cut short is none
    });
  });
}
