import { createHash } from 'node:crypto';
import type { OutboundFetch } from '#kernel/outbound-fetch.ts';

/** Bounds of a request: with padding an answer has up to a thousand lines of some 40 bytes. */
export const limits = { timeoutMs: 3000, maxBytes: 262_144 };

/**
 * Asks a Pwned Passwords range API whether a password was in a breach. Only the first five hexadecimal digits of its
 * SHA-1 leave this server, and the answer is padded, so that its length tells nothing.
 *
 * @param options `url`: base URL of the API; `fetch`: bounded by {@link limits}
 * @returns a function that rejects when the API does not answer as it should
 * @see https://haveibeenpwned.com/API/v3#SearchingPwnedPasswordsByRange
 */
export function createBreachList(options: {
  readonly url: string;
  readonly fetch: OutboundFetch;
}): (password: string) => Promise<boolean> {
  const base = options.url.replace(/\/$/, '');
  return async (password) => {
    const hash = createHash('sha1').update(password).digest('hex').toUpperCase();
    const answer = await options.fetch(`${base}/range/${hash.slice(0, 5)}`, {
      headers: { 'add-padding': 'true', 'user-agent': 'switchyard' },
    });
    if (!answer.ok) throw new Error(`The list of breached passwords answered with status ${answer.status}`);
    for (const line of (await answer.text()).split('\n')) {
      const [suffix, count] = line.trim().split(':');
      // What is there for padding was seen 0 times.
      if (suffix === hash.slice(5)) return Number(count) > 0;
    }
    return false;
  };
}
