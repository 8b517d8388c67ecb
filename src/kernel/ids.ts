import { randomFillSync } from 'node:crypto';
import { validate } from 'uuid';

/** Random bytes for some hundred ids: asking the system for each alone costs more than all else. */
const random = Buffer.alloc(4096);
let used = random.length;

/** Of the id before, so that ids of one process sort by creation within a millisecond, too. */
const last = { ms: 0, count: 0 };

/**
 * A new UUIDv7: sorts by time of creation. 32 bits count within a millisecond from a random start, 42 are random.
 * @see https://www.rfc-editor.org/rfc/rfc9562#section-6.2
 */
export function newId(): string {
  if (used === random.length) {
    randomFillSync(random);
    used = 0;
  }
  const bytes = random.subarray(used, (used += 16));
  const now = Date.now();
  if (now > last.ms) {
    last.ms = now;
    last.count = bytes.readUInt32BE(0) >>> 1; // room to count
  } else if (++last.count > 0xffffffff) {
    last.ms++;
    last.count = 0;
  }
  const { ms, count } = last;
  bytes.writeUIntBE(ms, 0, 6);
  bytes[6] = 0x70 | (count >>> 28);
  bytes[7] = count >>> 20;
  bytes[8] = 0x80 | ((count >>> 14) & 0x3f);
  bytes[9] = count >>> 6;
  bytes[10] = (count << 2) | ((bytes[10] ?? 0) & 0x03);
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export const isId = (text: string): boolean => validate(text);
