import type { IncomingMessage } from 'node:http';
import { smallBytes } from './room.ts';

/** This much of a body that is too long is read and thrown away, so that the client gets to read the answer. */
const drainBytes = 1_048_576;

/** Bodies that have arrived and wait, for their rest or for room, bytes. More of them are refused; small ones pass. */
export const held = { bytes: 0, most: 134_217_728 };

/** Reads a body, whatever its headers say of its size: all of it, or why there is none: `full` when too much waits. */
export function readRaw(
  req: IncomingMessage,
  maxBytes: number,
  timeoutMs: number,
): Promise<Buffer | 'large' | 'slow' | 'gone' | 'full'> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let own = 0;
    const data = (chunk: Buffer): void => {
      bytes += chunk.length;
      if (bytes > smallBytes && held.bytes + chunk.length > held.most) return done('full');
      if (bytes <= maxBytes) {
        chunks.push(chunk);
        held.bytes += chunk.length;
        own += chunk.length;
      } else if (bytes > maxBytes + drainBytes) done('large');
    };
    const end = () => done(bytes > maxBytes ? 'large' : Buffer.concat(chunks));
    const gone = () => done('gone');
    const timer = setTimeout(() => done('slow'), timeoutMs);
    const done = (result: Buffer | 'large' | 'slow' | 'gone' | 'full'): void => {
      clearTimeout(timer);
      held.bytes -= own;
      req.off('data', data).off('end', end).off('close', gone);
      if (typeof result === 'string') req.resume();
      resolve(result);
    };
    if (Number(req.headers['content-length'] ?? 0) > maxBytes + drainBytes) return done('large');
    req.on('data', data).on('end', end).on('close', gone);
    // It ends with `close`; without a listener it would end the process.
    req.on('error', () => undefined);
  });
}
