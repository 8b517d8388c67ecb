import { createHmac, hkdfSync } from 'node:crypto';
import type { Origin } from './actor.ts';

/** Id of a place that requests of somebody come from: the same for the same place, and a name for nobody else. */
export type OriginIds = (userId: string | null, origin: Origin) => string;

/**
 * Makes ids with a key of the server's: there are few addresses, and without the key nobody can find by trying which
 * one an id in the log stood for, once its row is gone.
 *
 * @param secret the session secret, from which a key of its own is derived
 * @see https://www.rfc-editor.org/rfc/rfc9562#section-5.8 UUID version 8
 */
export function createOriginIds(secret: string): OriginIds {
  const key = Buffer.from(hkdfSync('sha256', secret, '', 'switchyard origin ids', 32));
  return (userId, { address, userAgent }) => {
    const bytes = createHmac('sha256', key)
      .update(JSON.stringify([userId, address, userAgent]))
      .digest()
      .subarray(0, 16);
    bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80;
    bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
    return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  };
}
