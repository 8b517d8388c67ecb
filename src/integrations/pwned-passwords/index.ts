import { createOutboundPolicy } from '#kernel/outbound.ts';

const timeoutMs = 3000;

/**
 * Asks a Pwned Passwords range API whether a password was in a breach. Only the first five hexadecimal digits of its
 * SHA-1 leave this server, and the answer is padded, so that its length tells nothing.
 *
 * @param options `url`: base URL of the API, which must be at a public address unless loopback is allowed
 * @returns a function that rejects when the API does not answer within 3 s
 * @see https://haveibeenpwned.com/API/v3#PwnedPasswords
 */
export function createBreachList(options: {
  readonly url: string;
  readonly allowLoopback: boolean;
}): (password: string) => Promise<boolean> {
  const outbound = createOutboundPolicy({ allowLoopback: options.allowLoopback });
  return async (password) => {
    const signal = AbortSignal.timeout(timeoutMs);
    await outbound.check(options.url, { signal });
    // Loaded when it is needed: most servers never do.
    const { pwnedPassword } = await import('hibp');
    return (await pwnedPassword(password, { baseUrl: options.url, addPadding: true, signal })) > 0;
  };
}
