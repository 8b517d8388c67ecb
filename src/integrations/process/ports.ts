import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { codeOf } from '#kernel/system-error.ts';

/** Inclusive bounds of TCP ports. Below 32768, where the system's own choices start. */
export interface PortRange {
  readonly from: number;
  readonly to: number;
}

/** A port is not given twice within this time: the first instance may not listen yet. */
const reservedMs = 120_000;

/** Gives loopback ports that nobody listens on. Another program can still take one before its instance does. */
export function createPortFinder({ from, to }: PortRange): () => Promise<number> {
  const reserved = new Map<number, number>();
  return async () => {
    const now = performance.now();
    for (const [port, at] of reserved) if (now - at > reservedMs) reserved.delete(port);
    const size = to - from + 1;
    const first = randomInt(size);
    for (let step = 0; step < size; step += 1) {
      const port = from + ((first + step) % size);
      if (reserved.has(port)) continue;
      reserved.set(port, now);
      if (await isFree(port)) return port;
    }
    throw new Error(`No port between ${from} and ${to} is free.`);
  };
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error) => (codeOf(error) === 'EADDRINUSE' ? resolve(false) : reject(error)));
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/**
 * The users who listen on a TCP port of this machine; null where the system does not tell (not Linux).
 * @see https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
 */
export async function listenersOf(port: number): Promise<number[] | null> {
  if (process.platform !== 'linux') return null;
  const tables = await Promise.all(['/proc/net/tcp', '/proc/net/tcp6'].map(readTable));
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return tables
    .flatMap((table) => table.split('\n'))
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === '0A' && fields[1]?.endsWith(wanted)) // 0A: LISTEN
    .map((fields) => Number(fields[7]));
}

async function readTable(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return ''; // no IPv6 on this machine
    throw error;
  }
}
