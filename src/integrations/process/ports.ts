import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { endianness } from 'node:os';
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
 * The users who would be given a connection to 127.0.0.1 and a port of this machine; null where the system does not
 * tell (not Linux). The tables are read after the call; calls that wait share the next read.
 * @see https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
 */
export async function listenersOf(port: number): Promise<number[] | null> {
  if (process.platform !== 'linux') return null;
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const listeners = (await readListeners()).filter(({ address }) => address.endsWith(wanted));
  // The most exact address has the connection. Whoever listens on another one beside it (of IPv6, or 127.0.0.2) has not.
  for (const hosts of loopbackHosts) {
    const found = listeners.filter(({ address }) => hosts.includes(address.slice(0, -wanted.length)));
    if (found.length > 0) return found.map(({ uid }) => uid);
  }
  return [];
}

/** Whether `uid` alone listens there: null where the system does not tell. */
export async function listensAlone(port: number, uid: number): Promise<boolean | null> {
  const listeners = await listenersOf(port);
  return listeners && listeners.length > 0 && listeners.every((one) => one === uid);
}

interface Listener {
  /** As the kernel prints it: words of the machine's byte order in hexadecimal, colon, port. */
  readonly address: string;
  readonly uid: number;
}

/** Where a connection to 127.0.0.1 may arrive, the most exact first. */
const loopbackHosts =
  endianness() === 'LE'
    ? [
        ['0100007F', '0000000000000000FFFF00000100007F'],
        ['00000000', '0000000000000000FFFF000000000000'],
        ['0'.repeat(32)],
      ]
    : [
        ['7F000001', '00000000000000000000FFFF7F000001'],
        ['00000000', '00000000000000000000FFFF00000000'],
        ['0'.repeat(32)],
      ];

let reading: Promise<unknown> = Promise.resolve();
let next: Promise<Listener[]> | null = null;

function readListeners(): Promise<Listener[]> {
  next ??= reading.then(() => {
    next = null;
    const read = Promise.all(['/proc/net/tcp', '/proc/net/tcp6'].map(readTable)).then((tables) => tables.flat());
    reading = read.catch(() => undefined); // told to those who wait for it
    return read;
  });
  return next;
}

async function readTable(file: string): Promise<Listener[]> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return []; // no IPv6 on this machine
    throw error;
  }
  return text
    .split('\n')
    .filter((line) => line.includes(' 0A ')) // LISTEN
    .map((line) => line.trim().split(/\s+/))
    .map((fields) => ({ address: fields[1] ?? '', uid: Number(fields[7]) }));
}
