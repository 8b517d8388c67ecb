import { verify } from '@octokit/webhooks-methods';

/** `sha256=` and 64 hexadecimal digits; signatures by SHA-1 are not taken. */
export const isSignature = (text: unknown): text is string =>
  typeof text === 'string' && /^sha256=[0-9a-f]{64}$/.test(text);

/**
 * Whether one of the secrets signed the body (HMAC SHA-256), compared in constant time. Every secret is tried.
 * @see https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
 */
export async function isSigned(body: string, signature: string, secrets: readonly string[]): Promise<boolean> {
  const results = await Promise.all(secrets.map((secret) => verify(secret, body, signature)));
  return results.includes(true);
}
